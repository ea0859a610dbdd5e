"""The daily step of the model track: all commitments become cards, and the best of their networks wins.

result = evaluate_models(settings)
result.winner                       # a hotkey, or None
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from perturb.models.classifier import load_classifier
from perturb.schemas.commitment import CommitmentRefused, Committed, ModelCommitment
from perturb.schemas.errors import CorpusError
from perturb.schemas.model_track import CandidateCard, TrackResult
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import Settings
from perturb.schemas.target import Target
from perturb.schemas.trust import Trust
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.sinks.targets.track_results import append_result, newest_result
from perturb.subnet.fetch import FetchRefused, fetch
from perturb.subnet.keys import load_keypair
from perturb.subnet.trust import load_trust
from perturb.tasks.harden.pairs import FEWEST
from perturb.tasks.model_track.commitments import private_hosts, read_commitments
from perturb.tasks.model_track.isolated import CandidateRefused, Limits, measure_isolated
from perturb.tasks.model_track.rank import rank_cards, score_of
from perturb.tasks.model_track.stage import Stage, set_stage
from perturb.tasks.targets.gates import judge

GATES = "track-1"
# So many files are in memory at once.
_FETCHED_AT_ONCE = 4
Tell = Callable[[str], None]


def evaluate_models(
    settings: Settings, *, now: datetime | None = None, fewest: int = FEWEST, tell: Tell = lambda _: None
) -> TrackResult:
    """Fetch and measure the networks that miners committed to, choose a winner, and enter the result in the log.

    The winner's network becomes a target of the registry, which `perturb targets promote` may put under attack. A
    commitment that cannot be measured costs its own card only. Raises SubnetError where commitments cannot be read,
    TooFewPhotographs where the newest days have fewer than `fewest`, and CorpusError, ModelError and StoreError.
    """
    now = now or datetime.now(UTC)
    signer, trust = load_keypair(settings.subnet), load_trust(settings.subnet)
    commitments = read_commitments(settings, now)
    cards, usable = _parsed(commitments.found)
    result = TrackResult(
        measured_at=now, committed_until=commitments.until, epsilon=settings.model_track.epsilon, candidates=cards
    )
    registry = Registry.open(settings)
    if usable:
        stage = set_stage(settings, trust, fewest=fewest, tell=tell)
        with tempfile.TemporaryDirectory(prefix="perturb-track-") as folder:
            evaluation = _Evaluation(settings, stage, now, Path(folder), tell)
            before = _before(settings, trust, tell)
            found = [*cards, *evaluation.cards(usable, first=None if before is None else before.winner)]
            ranked = rank_cards(found, stage.baseline, settings.model_track.epsilon, owners=_owners(before))
            result = _on_stage(result, stage, ranked)
            result = _with_target(registry, result, stage, Path(folder))
    entries = Log(open_store(settings.store, settings.s3), trust=trust)
    # Rounds that are drawn while networks are measured name a log without this entry.
    append_result(entries, result, signer=signer, at=datetime.now(UTC))
    return result


def _before(settings: Settings, trust: Trust, tell: Tell) -> TrackResult | None:
    """Return the result of the evaluation before, or None where there is none that can be read."""
    try:
        return newest_result(open_store(settings.store, settings.s3), trust)
    except CorpusError as error:
        tell(f"the evaluation before is left out: {error}")
        return None


def _owners(before: TrackResult | None) -> dict[str, str]:
    """Return whose weights the evaluation before measured, by sha256: they stay theirs while their server is away."""
    cards = () if before is None else before.candidates
    return {card.sha256: card.hotkey for card in cards if card.sha256 and card.outcome in ("winner", "behind")}


def _parsed(found: Sequence[Committed]) -> tuple[tuple[CandidateCard, ...], list[tuple[Committed, ModelCommitment]]]:
    """Return cards of the texts that are no commitments, and the commitments."""
    refused, usable = [], []
    for one in found:
        try:
            usable.append((one, ModelCommitment.parse(one.text)))
        except CommitmentRefused as refusal:
            refused.append(_card(one, "refused", str(refusal)))
    return tuple(refused), usable


def _card(committed: Committed, outcome: str, reason: str, **more: object) -> CandidateCard:
    fields = {"hotkey": committed.hotkey, "text": committed.text, "committed_at": committed.at}
    return CandidateCard.model_validate(fields | {"outcome": outcome, "reason": reason} | more)


class _Evaluation:
    """The candidates of one day. `folder` gets the weights of those that may win, named by their sha256."""

    def __init__(self, settings: Settings, stage: Stage, now: datetime, folder: Path, tell: Tell):
        self._settings, self._track, self._stage, self._tell = settings, settings.model_track, stage, tell
        self._now, self._folder = now, folder
        self._measured: dict[str, ReportCard | str] = {}

    def cards(
        self, candidates: Sequence[tuple[Committed, ModelCommitment]], *, first: str | None
    ) -> Iterator[CandidateCard]:
        """Yield a card for each candidate, that of the hotkey `first` before all others.

        The order of the others changes from day to day, so that nobody is always the last.
        """
        day = f"{self._now:%Y-%m-%d}"

        def place(candidate: tuple[Committed, ModelCommitment]) -> tuple[bool, bytes]:
            hotkey = candidate[0].hotkey
            return hotkey != first, hashlib.sha256(f"{day} {hotkey}".encode()).digest()

        order = sorted(candidates, key=place)
        ends = time.monotonic() + 60 * self._track.total_minutes
        with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
            for at in range(0, len(order), _FETCHED_AT_ONCE):
                some = order[at : at + _FETCHED_AT_ONCE]
                if time.monotonic() >= ends:
                    yield from (_card(one, "not reached", "the time of the day's run was over") for one, _ in some)
                    continue
                for (one, _), fetched in zip(some, pool.map(self._fetch, some), strict=True):
                    self._tell(f"measuring the candidate of {one.hotkey}")
                    yield self._examine(one, fetched)

    def _fetch(self, candidate: tuple[Committed, ModelCommitment]) -> bytes | str:
        """Return the committed weights, or why they are refused."""
        committed, commitment = candidate
        try:
            weights = fetch_committed(self._settings, commitment)
        except FetchRefused as refusal:
            return str(refusal)
        if not commitment.is_of(weights, committed.hotkey):
            return f"the file at {commitment.u} is not what this hotkey committed to"
        return weights

    def _examine(self, committed: Committed, fetched: bytes | str) -> CandidateCard:
        if isinstance(fetched, str):
            return _card(committed, "refused", fetched)
        sha256 = hashlib.sha256(fetched).hexdigest()
        if sha256 not in self._measured:
            self._measured[sha256] = self._measure(fetched)
        found = self._measured[sha256]
        if isinstance(found, str):
            return _card(committed, "refused", found, sha256=sha256)
        verdict, score = judge(found, GATES), score_of(found, self._track)
        if not verdict.passed:
            return _card(committed, "refused", str(verdict), sha256=sha256, card=found, score=score)
        if score is None:
            reason = "it gets none of the photographs right, so that none can be attacked"
            return _card(committed, "refused", reason, sha256=sha256, card=found)
        if score.total > self._stage.baseline.score.total + self._track.epsilon:
            (self._folder / sha256).write_bytes(fetched)
        return _card(committed, "behind", "", sha256=sha256, card=found, score=score)

    def _measure(self, weights: bytes) -> ReportCard | str:
        limits = Limits(self._track.measure_seconds, self._track.memory_bytes)
        try:
            return measure_isolated(weights, self._stage.examination, limits, tell=self._tell)
        except CandidateRefused as refusal:
            return str(refusal)


def fetch_committed(settings: Settings, commitment: ModelCommitment) -> bytes:
    """Return the file at a commitment's address, within the limits of the settings. Raises FetchRefused."""
    track = settings.model_track
    return fetch(
        commitment.u,
        max_bytes=track.max_bytes,
        seconds=track.fetch_seconds,
        private_hosts=private_hosts(settings),
    )


def _on_stage(result: TrackResult, stage: Stage, cards: Sequence[CandidateCard]) -> TrackResult:
    winner = next((card.hotkey for card in cards if card.outcome == "winner"), None)
    found = {
        "days": stage.days,
        "photographs": len(stage.examination.photographs),
        "pairs": stage.pairs,
        "baseline": stage.baseline,
        "winner": winner,
        "candidates": tuple(cards),
    }
    return result.model_copy(update=found)


def _with_target(registry: Registry, result: TrackResult, stage: Stage, folder: Path) -> TrackResult:
    """Enter the winner's network as a target, and return the result with its name."""
    card = next((card for card in result.candidates if card.outcome == "winner"), None)
    if card is None or card.sha256 is None:
        return result
    target = registry.by_digest(card.sha256)
    if target is None:
        own = load_classifier(stage.examination.first)
        target = Target(
            # Shorter, two files of one miner could be made to begin alike, and the second could not be entered.
            name=f"track-{card.sha256[:32]}",
            architecture=own.name,
            sha256=card.sha256,
            input_size=own.height,
            classes=own.num_classes,
            created_at=result.measured_at,
            recipe={"name": "model-track", "hotkey": card.hotkey, "commitment": card.text},
        )
        registry.add(target, (folder / card.sha256).read_bytes())
    return result.model_copy(update={"target": target.name})
