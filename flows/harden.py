"""The `harden` flow: once a week a challenger is trained on the newest sealed days and measured."""

import logging
from datetime import date

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.settings import load_settings
from perturb.sinks.report.target_report import COLUMNS, figures
from perturb.tasks.harden.harden import HardenSummary
from perturb.tasks.harden.harden import harden as harden_step
from perturb.tasks.lineup.promote import promote

logger = logging.getLogger(__name__)


@task(name="harden", retries=2, retry_delay_seconds=300, retry_condition_fn=when_out_of_reach)
def _harden(
    store: str | None, days: list[str], parent: str | None, minutes: float, fresh: bool, seed: int
) -> HardenSummary:
    chosen = [date.fromisoformat(day) for day in days] or None
    settings = load_settings(store=store)
    made = harden_step(settings, days=chosen, parent=parent, minutes=minutes, fresh=fresh, seed=seed, tell=logger.info)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in figures(made.report.card)]
    show_table(f"report-{made.target.replace('.', '-')}", rows, f"{made.target}: {made.report.verdict}")
    if settings.targets.auto_promote and made.report.verdict.passed:
        promote(settings, made.target, share=settings.targets.share)
    return made


@flow(name="harden")
def harden(
    store: str | None = None,
    days: list[str] | None = None,
    parent: str | None = None,
    minutes: float = 6.0,
    fresh: bool = False,
    seed: int = 0,
) -> HardenSummary:
    """Train and measure a challenger on sealed days (by default the newest 28). `targets.auto_promote` promotes it."""
    return _harden(store, days or [], parent, minutes, fresh, seed)
