"""Weights: what every miner's history is worth, under a named emission policy, and its way onto the chain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING

from perturb.schemas.errors import SettingsError
from perturb.schemas.neuron import Neuron
from perturb.subnet.chain import Chain
from perturb.subnet.keys import Keypair
from perturb.tasks.weights.history import MinerHistory, miner_histories

if TYPE_CHECKING:
    from perturb.tasks.weights.history import Records

MIN_PROCESSED = 100
WINDOW = 100
_FIRST, _SECOND = 0.70, 0.15


def _proportional(ranked: Sequence[tuple[int, float]]) -> list[float]:
    return [score for _, score in ranked]


def _winner_takes_most(ranked: Sequence[tuple[int, float]]) -> list[float]:
    """0.70 to the first, 0.15 to the second, the rest to the tail in shares that fall linearly with the rank.

    Equal scores share what their places earn together, so that no uid wins by being smaller.
    """
    tail = len(ranked) - 2
    steps = tail * (tail + 1) / 2
    places = [_FIRST, _SECOND, *((1 - _FIRST - _SECOND) * (tail - place) / steps for place in range(tail))]
    shares: list[float] = []
    for _, tied in groupby(ranked, key=lambda pair: pair[1]):
        count = len(list(tied))
        mine = places[len(shares) : len(shares) + count]
        shares += [sum(mine) / count] * count
    return shares


POLICIES: dict[str, Callable[[Sequence[tuple[int, float]]], list[float]]] = {
    "proportional": _proportional,
    "winner_takes_most": _winner_takes_most,
}
DEFAULT_POLICY = "winner_takes_most"


def emission(scores: Mapping[int, float], policy: str) -> dict[int, float]:
    """Weights by uid that sum to 1, from scores of 0 or more by uid; whoever has 0 earns nothing.

    Empty where nobody has a score above 0. Raises SettingsError for an unknown policy, ValueError for a negative or
    infinite score.
    """
    if policy not in POLICIES:
        raise SettingsError(f"emission policy {policy!r} is not known; accepted: {', '.join(POLICIES)}")
    for uid, score in scores.items():
        if not (isfinite(score) and score >= 0):
            raise ValueError(f"uid {uid} has score {score}; accepted: finite numbers of 0 or more")
    ranked = sorted(((uid, score) for uid, score in scores.items() if score > 0), key=lambda pair: (-pair[1], pair[0]))
    shares = POLICIES[policy](ranked) if ranked else []
    total = sum(shares[: len(ranked)])
    return {uid: share / total for (uid, _), share in zip(ranked, shares, strict=False)}


@dataclass(frozen=True)
class WeightRow:
    """One neuron of the plan. `reason` says why it earns nothing; None where it earns."""

    history: MinerHistory
    weight: float
    reason: str | None


@dataclass(frozen=True)
class WeightsPlan:
    """What would be submitted, and why: one row a neuron. `block` is where the neurons were read, None off chain."""

    policy: str
    window: int
    min_processed: int
    netuid: int
    block: int | None
    rows: tuple[WeightRow, ...]

    @property
    def weights(self) -> dict[int, float]:
        """What is submitted: uids that earn."""
        return {row.history.uid: row.weight for row in self.rows if row.weight > 0}


def plan_weights(
    records: "Records",
    neurons: Sequence[Neuron],
    *,
    netuid: int,
    policy: str = DEFAULT_POLICY,
    window: int = WINDOW,
    min_processed: int = MIN_PROCESSED,
    block: int | None = None,
) -> WeightsPlan:
    """Weights for `neurons` from the corpus' records. Only miners with more than `min_processed` challenges earn.

    Raises SettingsError for an unknown policy or a window below 1, CorpusError for records without the columns.
    """
    if window < 1:
        raise SettingsError(f"a window of {window} challenges averages nothing; give 1 or more")
    histories = miner_histories(records, neurons, netuid=netuid, window=window)
    reasons = {history.uid: _ineligible(history, min_processed) for history in histories}
    scores = {history.uid: history.average for history in histories if reasons[history.uid] is None}
    weights = emission(scores, policy)
    rows = tuple(WeightRow(history, weights.get(history.uid, 0.0), reasons[history.uid]) for history in histories)
    return WeightsPlan(policy, window, min_processed, netuid, block, rows)


@dataclass(frozen=True)
class WeightsSubmitted:
    """What became of a plan. `extrinsic` is its id on chain, None where nothing was submitted; `reason` says why."""

    plan: WeightsPlan
    extrinsic: str | None
    reason: str | None


def submit_weights(chain: Chain, plan: WeightsPlan, keypair: Keypair) -> WeightsSubmitted:
    """Put the plan on chain, unless nobody earns in it. Raises SubnetError where the chain refuses."""
    if not plan.weights:
        return WeightsSubmitted(plan, None, f"no miner has more than {plan.min_processed} challenges and a score")
    return WeightsSubmitted(plan, chain.set_weights(keypair, plan.weights), None)


def _ineligible(history: MinerHistory, min_processed: int) -> str | None:
    if history.processed <= min_processed:
        return f"processed {history.processed} challenges; more than {min_processed} are needed"
    if history.average <= 0:
        return f"scored nothing in the last {history.counted} challenges that count"
    return None
