"""The `weights` flow: what every miner's history is worth, and its way onto the chain once a tempo."""

import logging
from typing import Any

from prefect import flow, task
from pydantic import BaseModel

from perturb.flows.engine.artifacts import show_table
from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.neurons import local_roster, metagraph_cache
from perturb.tasks.weights.emission import (
    DEFAULT_POLICY,
    WeightRow,
    WeightsPlan,
    WeightsSubmitted,
    plan_weights,
    submit_weights,
)
from perturb.tasks.weights.history import COLUMNS

logger = logging.getLogger(__name__)


class WeightsSummary(BaseModel):
    """A plan in numbers and its fate: `extrinsic` on chain, or None and the `reason`."""

    policy: str
    block: int | None
    rows: list[dict[str, Any]]
    weights: dict[int, float]
    extrinsic: str | None
    reason: str | None


@task(name="plan and submit", retries=3, retry_delay_seconds=60, retry_condition_fn=when_out_of_reach)
def _submit(store: str | None, policy: str, dry_run: bool) -> WeightsSummary:
    settings = load_settings(store=store)
    neurons, block = _neurons(settings)
    corpus = Corpus.open(settings)
    plan = plan_weights(
        corpus.table(columns=list(COLUMNS)), neurons, netuid=settings.subnet.netuid, policy=policy, block=block
    )
    rows = [_row(row) for row in plan.rows]
    show_table("weights", rows, f"weights under {plan.policy}")
    done = _send(plan, settings, dry_run=dry_run)
    return WeightsSummary(
        policy=plan.policy,
        block=block,
        rows=rows,
        weights=plan.weights,
        extrinsic=done.extrinsic,
        reason=done.reason,
    )


def _neurons(settings: Settings) -> tuple[tuple[Neuron, ...], int | None]:
    """Everybody who holds a uid, whether it answers just now or not."""
    if settings.subnet.network == LOCAL_NETWORK:
        return tuple(local_roster(settings.subnet).neurons), None
    graph = metagraph_cache(settings.subnet).current()
    return graph.neurons, graph.block


def _send(plan: WeightsPlan, settings: Settings, *, dry_run: bool) -> WeightsSubmitted:
    if dry_run or settings.subnet.network == LOCAL_NETWORK:
        return WeightsSubmitted(plan, None, "a dry run" if dry_run else "the local network has no chain")
    return submit_weights(open_chain(settings.subnet), plan, load_keypair(settings.subnet))


def _row(row: WeightRow) -> dict[str, Any]:
    history = row.history
    return {
        "uid": history.uid,
        "miner": history.hotkey,
        "processed": history.processed,
        "accepted": history.accepted,
        "average": round(history.average, 4),
        "weight": round(row.weight, 6),
        "why not": row.reason or "",
    }


@flow(name="weights")
def weights(store: str | None = None, policy: str = DEFAULT_POLICY, dry_run: bool = False) -> WeightsSummary:
    """Submits weights from the corpus' records; on the local network, and in a dry run, they are only planned."""
    return _submit(store, policy, dry_run)
