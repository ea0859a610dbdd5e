"""The `export` flow: every tier's dataset catches up with the sealed days."""

from datetime import UTC, date, datetime

from prefect import flow, task

from flows.artifacts import show_export
from flows.retry import when_out_of_reach
from schemas.settings import load_settings
from sinks.corpus import Corpus
from sinks.store import Store, open_store
from tasks.export import ExportResult
from tasks.export import export as export_tier
from tasks.export_state import tier_folder
from tasks.tiers import get_tier, load_tiers


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
    corpus = Corpus(open_store(settings.store, settings.s3))
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


@flow(name="export")
def export(
    tiers: list[str] | None = None, store: str | None = None, today: date | None = None, release: str | None = None
) -> list[ExportResult]:
    """Exports `tiers` (all of the tier file where none is named), one after the other."""
    names = tiers or list(load_tiers(load_settings(store=store).tiers))
    day = today or datetime.now(UTC).date()
    return [_export(name, store, day, release) for name in names]
