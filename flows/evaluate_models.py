"""The `evaluate_models` flow: once a day the networks that miners committed to are measured, and one of them wins."""

import logging

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.model_track import TrackResult
from perturb.schemas.settings import load_settings
from perturb.tasks.model_track.evaluate import evaluate_models as evaluate_step
from perturb.tasks.model_track.rows import COLUMNS, rows

logger = logging.getLogger(__name__)


@task(name="evaluate models", retries=2, retry_delay_seconds=300, retry_condition_fn=when_out_of_reach)
def _evaluate(store: str | None) -> TrackResult:
    result = evaluate_step(load_settings(store=store), tell=logger.info)
    lines = [dict(zip(COLUMNS, row, strict=True)) for row in rows(result)]
    show_table("model-track", lines, f"model track: {result.winner or 'no winner'}")
    return result


@flow(name="evaluate_models")
def evaluate_models(store: str | None = None) -> TrackResult:
    """Measure the networks that miners committed to on the newest sealed days, with fresh attacks."""
    return _evaluate(store)
