"""The step once a tempo: plan weights from the corpus' records and submit them to the chain."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from pydantic import BaseModel

from perturb.schemas.errors import CorpusError
from perturb.schemas.model_track import TrackResult
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import Settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import ObjectCorrupt
from perturb.sinks.targets.track_results import newest_result
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.neurons import local_roster, metagraph_cache
from perturb.subnet.trust import load_trust
from perturb.tasks.weights.emission import (
    DEFAULT_EMISSION_POLICY,
    WeightRow,
    WeightsPlan,
    WeightsSubmitted,
    plan_weights,
    submit_weights,
)
from perturb.tasks.weights.own_records import OwnHistory

log = logging.getLogger(__name__)

WeightLine: TypeAlias = dict[str, int | float | str]
"""A row of the weights table, by heading: uid, miner, processed, accepted, average, weight, why not."""


class WeightsSummary(BaseModel):
    """A plan in numbers and what became of it.

    `block` is the block at which the neurons were read, None off chain. `weights` are by uid and sum to 1. `extrinsic`
    is the ID of the submission, or None with the `reason` why nothing was submitted. `model_winner` is the hotkey that
    the model track's share went to, or None. `left` counts the sealed days and
    rounds that pay nobody, because no trusted validator signed them, by the reason.
    """

    policy: str
    block: int | None
    rows: list[WeightLine]
    weights: dict[int, float]
    extrinsic: str | None
    reason: str | None
    model_winner: str | None = None
    left: dict[str, int] = {}


def weigh_miners(
    settings: Settings, *, emission_policy: str = DEFAULT_EMISSION_POLICY, dry_run: bool = False
) -> WeightsSummary:
    """Plan weights from the records of the configured corpus, and submit them.

    Only what the own hotkey and the trusted validators of the settings signed counts. On the local network and in a dry
    run nothing is submitted. Raises SettingsError for an unknown policy, SubnetError
    where the chain cannot be reached or refuses, StoreError where the corpus cannot be read, and CorpusError where it
    is not what these validators signed.
    """
    neurons, block = _neurons(settings)
    trust = load_trust(settings.subnet)
    corpus = Corpus.open(settings)
    history = OwnHistory(corpus, trust, cache=settings.cache / "weights")
    winner = _model_winner(settings, _model_result(corpus, trust), neurons)
    plan = plan_weights(
        history,
        neurons,
        netuid=settings.subnet.netuid,
        emission_policy=emission_policy,
        block=block,
        model_winner=winner,
        model_share=settings.model_track.share,
    )
    history.forget_unused()
    for why, count in history.left.items():
        log.warning("%d left out of the weights: %s; run `perturb audit`", count, why)
    submitted = _submit(plan, settings, dry_run=dry_run)
    return WeightsSummary(
        policy=plan.emission_policy,
        block=block,
        rows=[_line(row) for row in plan.rows],
        weights=plan.weights,
        extrinsic=submitted.extrinsic,
        reason=submitted.reason,
        model_winner=winner,
        left=dict(history.left),
    )


def _neurons(settings: Settings) -> tuple[tuple[Neuron, ...], int | None]:
    """Return every neuron that holds a uid, reachable or not, and the block at which they were read."""
    if settings.subnet.network == LOCAL_NETWORK:
        return tuple(local_roster(settings.subnet).neurons), None
    graph = metagraph_cache(settings.subnet).current()
    return graph.neurons, graph.block


def _model_result(corpus: Corpus, trust: Trust) -> TrackResult | None:
    """Return the newest result of the model track; None too where it is damaged, which keeps nobody else unpaid."""
    try:
        return newest_result(corpus.store, trust)
    except (CorpusError, ObjectCorrupt) as error:
        log.warning("the model track pays nobody, as its newest result cannot be read: %s", error)
        return None


def _model_winner(settings: Settings, result: TrackResult | None, neurons: Sequence[Neuron]) -> str | None:
    """Return the hotkey that won the model track last, if that was lately and it still is a neuron."""
    oldest = datetime.now(UTC) - timedelta(hours=settings.model_track.result_hours)
    if result is None or result.measured_at < oldest:
        return None
    return next((neuron.hotkey for neuron in neurons if neuron.hotkey == result.winner), None)


def _submit(plan: WeightsPlan, settings: Settings, *, dry_run: bool) -> WeightsSubmitted:
    if dry_run or settings.subnet.network == LOCAL_NETWORK:
        return WeightsSubmitted(plan, None, "a dry run" if dry_run else "the local network has no chain")
    return submit_weights(open_chain(settings.subnet), plan, load_keypair(settings.subnet))


def _line(row: WeightRow) -> WeightLine:
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
