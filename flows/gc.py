"""The `gc` flow: superseded rounds and whatever was never committed make room."""

from datetime import timedelta

from prefect import flow, task
from pydantic import BaseModel

from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.corpus.gc import collect_garbage


class GarbageSummary(BaseModel):
    """Objects removed, by why they were garbage, and their bytes."""

    orphans: int
    superseded: int
    unfinished: int
    bytes: int


@task(name="collect garbage", retries=2, retry_delay_seconds=10, retry_condition_fn=when_out_of_reach)
def _collect(store: str | None, dry_run: bool) -> GarbageSummary:
    settings = load_settings(store=store)
    report = collect_garbage(
        Corpus.open(settings),
        keep_superseded=timedelta(days=settings.seal.keep_rounds_days),
        dry_run=dry_run,
    )
    return GarbageSummary(
        orphans=len(report.orphans),
        superseded=len(report.superseded),
        unfinished=len(report.unfinished),
        bytes=report.size,
    )


@flow(name="gc")
def gc(store: str | None = None, dry_run: bool = False) -> GarbageSummary:
    """Removes rounds that a sealed day took in `seal.keep_rounds_days` ago, and what nobody committed within a day."""
    return _collect(store, dry_run)
