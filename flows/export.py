"""The `export` flow: every tier's dataset catches up with the sealed days."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from functools import partial

from prefect import flow, task

from perturb.flows.engine.artifacts import show_export
from perturb.flows.engine.retry import when_not_ours, when_out_of_reach
from perturb.flows.engine.runner import workers
from perturb.schemas.settings import Settings, load_settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.day_index import DayIndex
from perturb.sinks.dataset.keys import figure_folder, format_folder
from perturb.sinks.stores.base import Store
from perturb.subnet.trust import load_trust
from perturb.tasks.export.export import ExportResult, export_day
from perturb.tasks.export.export_tiers import export_tiers
from perturb.tasks.tiers.tier_file import get_tier, load_tiers

# Starting a cluster takes longer than exporting a single day.
_LEAST_DAYS = 2


# Day files are create-only and the card is replaced last, so an interrupted export is completed by the next try.
@task(
    name="export tier",
    task_run_name="export {tier}",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=when_out_of_reach,
)
def _export(tier: str, store: str | None, today: date, release: str | None) -> ExportResult:
    settings = load_settings(store=store)
    map_days = map if settings.runner == "threads" else partial(_on_workers, settings=settings, tier=tier)
    (result,) = export_tiers(settings, [tier], today=today, release=release, map_days=map_days)
    if result.added:
        show_export(result, _distributions(Corpus.open(settings).store, result))
    return result


def _on_workers(
    write: Callable[[date], DayIndex], days: Sequence[date], *, settings: Settings, tier: str
) -> list[DayIndex]:
    """Write the days on the runner's workers, and a single day here."""
    if len(days) < _LEAST_DAYS:
        return [write(day) for day in days]
    with workers(settings) as submit:
        # A worker may be a machine that does not have the own key, so it is told which hotkeys count.
        trusted = sorted(load_trust(settings.subnet).hotkeys or ())
        pending = [submit(_export_day, tier=tier, day=day, store=settings.store_name, trusted=trusted) for day in days]
        return [future.result() for future in pending]


# A day's files are created once and its index last, so a day that a lost worker left unfinished is written again.
@task(
    name="export day",
    task_run_name="export {tier} {day}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=when_not_ours,
)
def _export_day(tier: str, day: date, store: str | None, trusted: list[str]) -> DayIndex:
    settings = load_settings(store=store)
    grant = get_tier(load_tiers(settings.tiers), tier)
    trust = Trust(frozenset(trusted))
    return export_day(Corpus.open(settings), grant, day, key=settings.pseudonym_key, trust=trust)


def _distributions(store: Store, result: ExportResult) -> bytes | None:
    """Return the figure that the card shows; None when there was nothing to plot."""
    key = f"{format_folder(result.tier, 'parquet')}{figure_folder(result.version)}distributions.png"
    return store.get(key) if store.head(key) is not None else None


@flow(name="export")
def export(
    tiers: list[str] | None = None, store: str | None = None, today: date | None = None, release: str | None = None
) -> list[ExportResult]:
    """Export `tiers` (default: all tiers of the tier file), one after the other.

    With the runner `dask` or `ray`, workers write a tier's days; the card is replaced when all days are written.
    """
    settings = load_settings(store=store)
    # Outside the tasks, which would try again: a store without conditional writes stays one.
    Corpus.open_for_writing(settings)
    day = today or datetime.now(UTC).date()
    return [_export(name, store, day, release) for name in tiers or load_tiers(settings.tiers)]
