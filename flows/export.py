"""The `export` flow: every tier's dataset catches up with the sealed days."""

from dataclasses import replace
from datetime import UTC, date, datetime

from prefect import flow, task

from perturb.flows.engine.artifacts import show_export
from perturb.flows.engine.retry import when_out_of_reach
from perturb.flows.engine.runner import workers
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Store
from perturb.tasks.export.export import DayAdded, ExportResult
from perturb.tasks.export.export import export as export_tier
from perturb.tasks.export.fan_out import days_to_export, export_day, in_order
from perturb.tasks.export.operator_state import tier_folder
from perturb.tasks.tiers.tier_file import get_tier, load_tiers

# Starting a cluster takes longer than exporting a single day.
_LEAST_DAYS = 2


# Day files are create-only and the card is replaced last, so an interrupted export is taken up where it stopped.
@task(
    name="export tier",
    task_run_name="export {tier}",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=when_out_of_reach,
)
def _export(tier: str, store: str | None, today: date, release: str | None) -> ExportResult:
    settings = load_settings(store=store)
    corpus = Corpus.open(settings)
    result = export_tier(
        corpus,
        get_tier(load_tiers(settings.tiers), tier),
        today=today,
        key=settings.pseudonym_key,
        release=release,
    )
    if result.added:
        show_export(result, _distributions(corpus.store, result))
    return result


def _distributions(store: Store, result: ExportResult) -> bytes | None:
    """The plot that the card shows; None where nothing could be plotted."""
    key = f"{tier_folder(result.tier)}parquet/.meta/{result.version}/distributions.png"
    return store.get(key) if store.head(key) is not None else None


# A day's files are created once and its digest last, so a day that a lost worker left half done is done again.
@task(name="export day", task_run_name="export {tier} {day}", retries=2, retry_delay_seconds=5)
def _export_day(tier: str, day: date, store: str | None) -> DayAdded:
    settings = load_settings(store=store)
    corpus = Corpus.open(settings)
    return export_day(corpus, get_tier(load_tiers(settings.tiers), tier), day, key=settings.pseudonym_key)


def _fan_out(tier: str, store: str | None, today: date, settings: Settings) -> tuple[DayAdded, ...]:
    corpus = Corpus.open(settings)
    grant = get_tier(load_tiers(settings.tiers), tier)
    days = days_to_export(corpus, grant, today=today, key=settings.pseudonym_key)
    if len(days) < _LEAST_DAYS:
        return ()
    with workers(settings) as submit:
        pending = [submit(_export_day, tier=tier, day=day, store=settings.store_name) for day in days]
        return in_order([future.result() for future in pending])


@flow(name="export")
def export(
    tiers: list[str] | None = None, store: str | None = None, today: date | None = None, release: str | None = None
) -> list[ExportResult]:
    """Exports `tiers` (all of the tier file where none is named), one after the other.

    With the runner `dask` or `ray` a tier's days are spread over its workers; the card follows when all are there.
    """
    settings = load_settings(store=store)
    names = tiers or list(load_tiers(settings.tiers))
    day = today or datetime.now(UTC).date()
    results = []
    for name in names:
        spread = _fan_out(name, store, day, settings) if settings.runner != "threads" else ()
        result = _export(name, store, day, release)
        results.append(replace(result, added=spread + result.added))
    return results
