"""The `gc` flow: superseded rounds and what was never committed are removed."""

from prefect import flow, task

from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.settings import load_settings
from perturb.tasks.corpus.gc import GarbageReport, clean_store


@task(name="collect garbage", retries=2, retry_delay_seconds=10, retry_condition_fn=when_out_of_reach)
def _collect(store: str | None, dry_run: bool, all_days: bool) -> GarbageReport:
    return clean_store(load_settings(store=store), dry_run=dry_run, all_days=all_days)


@flow(name="gc")
def gc(store: str | None = None, dry_run: bool = False, all_days: bool = False) -> GarbageReport:
    """Remove rounds that a sealed day took in `seal.keep_rounds_days` ago, and what was not committed in a day."""
    return _collect(store, dry_run, all_days)
