"""Weights of miners from their histories, under a named emission policy, and their submission to the chain."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite

from perturb.schemas.errors import SettingsError
from perturb.schemas.neuron import Neuron
from perturb.subnet.chain import Chain
from perturb.subnet.keys import Keypair
from perturb.tasks.weights.history import History, MinerHistory, miner_histories

MIN_PROCESSED = 100
WINDOW = 100
_FIRST, _SECOND = 0.70, 0.15


def _proportional(ranked: Sequence[tuple[int, float]]) -> list[float]:
    return [score for _, score in ranked]


def _winner_takes_most(ranked: Sequence[tuple[int, float]]) -> list[float]:
    """Return 0.70 for the first, 0.15 for the second, and 0.15 for all others in shares that fall linearly with rank.

    Miners with equal scores share the sum of their places equally, so that a smaller uid is no advantage.
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


EMISSION_POLICIES: dict[str, Callable[[Sequence[tuple[int, float]]], list[float]]] = {
    "proportional": _proportional,
    "winner_takes_most": _winner_takes_most,
}
DEFAULT_EMISSION_POLICY = "winner_takes_most"


def emission(scores: Mapping[int, float], emission_policy: str) -> dict[int, float]:
    """Return weights by uid that sum to 1, from scores of 0 or more by uid; a uid with score 0 has no weight.

    The result is empty where no score is above 0. Raises SettingsError for an unknown policy, ValueError for a score
    that is negative or not finite.
    """
    if emission_policy not in EMISSION_POLICIES:
        raise SettingsError(
            f"emission policy {emission_policy!r} is not known; accepted: {', '.join(EMISSION_POLICIES)}"
        )
    for uid, score in scores.items():
        if not (isfinite(score) and score >= 0):
            raise ValueError(f"uid {uid} has score {score}; accepted: finite numbers of 0 or more")
    ranked = sorted(((uid, score) for uid, score in scores.items() if score > 0), key=lambda pair: (-pair[1], pair[0]))
    shares = EMISSION_POLICIES[emission_policy](ranked) if ranked else []
    total = sum(shares[: len(ranked)])
    return {uid: share / total for (uid, _), share in zip(ranked, shares, strict=False)}


def blend(scanning: Mapping[int, float], model: Mapping[int, float], *, model_share: float) -> dict[int, float]:
    """Return weights by uid that sum to 1: `model_share` (0..1) of the model track's, the rest of scanning's.

    Each track's weights sum to 1, or are empty; the share of an empty one goes to the other.
    """
    share = 0.0 if not model else 1.0 if not scanning else model_share
    uids = sorted({*scanning, *model})
    mixed = {uid: (1 - share) * scanning.get(uid, 0.0) + share * model.get(uid, 0.0) for uid in uids}
    return {uid: weight for uid, weight in mixed.items() if weight > 0}


@dataclass(frozen=True)
class WeightRow:
    """One neuron of the plan. `reason` says why its weight is 0; None where it has one."""

    history: MinerHistory
    weight: float
    reason: str | None


@dataclass(frozen=True)
class WeightsPlan:
    """The weights to submit, with one row per neuron. `block` is the block of the neurons' list, None off chain."""

    emission_policy: str
    window: int
    min_processed: int
    netuid: int
    block: int | None
    rows: tuple[WeightRow, ...]

    @property
    def weights(self) -> dict[int, float]:
        """The positive weights by uid, which are what is submitted."""
        return {row.history.uid: row.weight for row in self.rows if row.weight > 0}


def plan_weights(
    history: History,
    neurons: Sequence[Neuron],
    *,
    netuid: int,
    emission_policy: str = DEFAULT_EMISSION_POLICY,
    window: int = WINDOW,
    min_processed: int = MIN_PROCESSED,
    block: int | None = None,
    model_winner: str | None = None,
    model_share: float = 0.0,
) -> WeightsPlan:
    """Plan weights for `neurons` from the history of the corpus. Only miners that processed more than `min_processed`
    challenges can earn; scores are averages over the latest `window` challenges that count.

    The hotkey `model_winner`, where it is one of the neurons, gets `model_share` (0..1) of all weights besides.

    Raises SettingsError for an unknown policy or a window below 1, CorpusError for records without the columns.
    """
    if window < 1:
        raise SettingsError(f"a window of {window} challenges has no average; give 1 or more")
    histories = miner_histories(history, neurons, netuid=netuid, window=window)
    reasons = {history.uid: _ineligible(history, min_processed) for history in histories}
    scores = {history.uid: history.average for history in histories if reasons[history.uid] is None}
    winner = {neuron.uid: 1.0 for neuron in neurons if neuron.hotkey == model_winner}
    weights = blend(emission(scores, emission_policy), winner, model_share=model_share)
    rows = tuple(
        WeightRow(history, weights.get(history.uid, 0.0), None if history.uid in weights else reasons[history.uid])
        for history in histories
    )
    return WeightsPlan(emission_policy, window, min_processed, netuid, block, rows)


@dataclass(frozen=True)
class WeightsSubmitted:
    """Outcome of a plan. `extrinsic` is the ID of its submission, or None with the `reason` why there is none."""

    plan: WeightsPlan
    extrinsic: str | None
    reason: str | None


def submit_weights(chain: Chain, plan: WeightsPlan, keypair: Keypair) -> WeightsSubmitted:
    """Submit the plan, unless it holds no positive weight. Raises SubnetError where the chain refuses."""
    if not plan.weights:
        return WeightsSubmitted(plan, None, f"no miner has more than {plan.min_processed} challenges and a score")
    return WeightsSubmitted(plan, chain.set_weights(keypair, plan.weights), None)


def _ineligible(history: MinerHistory, min_processed: int) -> str | None:
    if history.processed <= min_processed:
        return f"processed {history.processed} challenges; more than {min_processed} are needed"
    if history.average <= 0:
        return f"scored 0 in each of the last {history.counted} challenges that count"
    return None
