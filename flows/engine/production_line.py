"""The parts of one production line, assembled from the settings, and its three stations.

Images live here, in the process that works on them: a station is called with a round's id and answers with a
summary, so that nothing large ever crosses an orchestrator.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import BaseModel

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import Judge, load_judge
from perturb.schemas.challenge import Challenge, Photo
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Verdict
from perturb.sinks.corpus.corpus import Corpus
from perturb.sources import open_source
from perturb.subnet.keys import load_keypair
from perturb.subnet.neurons import NeuronList, find_neurons
from perturb.tasks.challenge.collect import collect_responses
from perturb.tasks.challenge.draw import draw_challenge
from perturb.tasks.challenge.package import make_challenge
from perturb.tasks.corpus.commit import RoundSummary, commit_round
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score


@dataclass
class RoundInFlight:
    """A round between its draw and its commit."""

    challenge: Challenge
    redrawn: dict[str, int]
    neurons: NeuronList
    responses: list[Response] = field(default_factory=list)


class FinishedRound(BaseModel):
    """A committed round, and the photographs that were put back before its challenge was found (reason -> count)."""

    committed: RoundSummary
    redrawn: dict[str, int]


@dataclass
class Line:
    """One process' production line. Its stations are `draw`, `collect` and `finish`, in that order for a round.

    `best` is the best pair of the round that was finished last, None where nothing in it was accepted. `spread` may
    verify a round's answers elsewhere; it answers None where that is not worth the way.
    """

    settings: Settings
    photos: Iterator[Photo]
    classifier: Classifier
    judge: Judge
    keypair: Any
    corpus: Corpus
    in_flight: dict[str, RoundInFlight] = field(default_factory=dict)
    best: Pair | None = None
    abandoned: bool = False
    spread: Callable[[Challenge, Sequence[Response]], list[Verdict] | None] = lambda _challenge, _responses: None
    _cancel: Callable[[], Any] = field(default=lambda: None, repr=False)

    def draw(self) -> str:
        """Draws a challenge; returns its round id. Raises SourceError, or SubnetError where nobody can be asked."""
        neurons = find_neurons(self.settings.subnet, own_hotkey=self.keypair.ss58_address)
        drawn = draw_challenge(
            self.photos,
            partial(
                make_challenge,
                classifier=self.classifier,
                judge=self.judge,
                settings=self.settings,
                now=datetime.now(UTC),
            ),
            max_draws=self.settings.challenge.max_draws,
        )
        round_id = drawn.challenge.round_id
        self.in_flight[round_id] = RoundInFlight(drawn.challenge, dict(drawn.redrawn), neurons)
        return round_id

    def collect(self, round_id: str) -> bool:
        """Sends the round's challenge to all its neurons; False where `abandon` ended the wait, and the round."""
        try:
            asyncio.run(self._ask(self.in_flight[round_id]))
        except asyncio.CancelledError:
            del self.in_flight[round_id]
            return False
        return True

    async def _ask(self, work: RoundInFlight) -> None:
        loop, asking = asyncio.get_running_loop(), asyncio.current_task()
        assert asking is not None
        self._cancel = partial(loop.call_soon_threadsafe, asking.cancel)
        if self.abandoned:
            raise asyncio.CancelledError
        try:
            work.responses = await collect_responses(
                work.challenge, work.neurons.neurons, self.keypair, settings=self.settings.subnet
            )
        finally:
            self._cancel = lambda: None

    def abandon(self) -> None:
        """Ends the wait for answers, now and from now on, from any thread. What isn't committed never was."""
        self.abandoned = True
        self._cancel()

    def finish(self, round_id: str) -> FinishedRound:
        """Verifies, scores and commits the round; calling it again after a failure writes the same bytes."""
        work = self.in_flight[round_id]
        verdicts = self.spread(work.challenge, work.responses)
        if verdicts is None:
            verdicts = verify(
                work.challenge, work.responses, classifier=self.classifier, judge=self.judge, settings=self.settings
            )
        scores = [
            score(verdict, work.challenge.task, response.response_ms, policy=self.settings.policy)
            for verdict, response in zip(verdicts, work.responses, strict=True)
        ]
        committed = commit_round(
            self.corpus,
            work.challenge,
            work.responses,
            verdicts,
            scores,
            netuid=self.settings.subnet.netuid,
            block=work.neurons.block,
            validator_hotkey=self.keypair.ss58_address,
            signer=self.keypair,
        )
        self.best = _best_pair(work, committed)
        del self.in_flight[round_id]
        return FinishedRound(committed=committed, redrawn=work.redrawn)


def _best_pair(work: RoundInFlight, committed: RoundSummary) -> Pair | None:
    accepted = (
        (record, response)
        for record, response in zip(committed.rows, work.responses, strict=True)
        if record.outcome == Outcome.ACCEPTED
    )
    best = max(accepted, key=lambda pair: pair[0].score, default=None)
    return None if best is None else Pair(work.challenge.png, best[1].body, best[0].model_dump())


def open_line(settings: Settings) -> Line:
    """Loads the models and opens source, store and wallet. Raises the error of the first part that is not ready."""
    corpus = Corpus.open_for_writing(settings)
    source = open_source(settings)
    keypair = load_keypair(settings.subnet)
    # Before the models: store and neurons take a moment, and are what is most often not ready.
    find_neurons(settings.subnet, own_hotkey=keypair.ss58_address)
    return Line(
        settings=settings,
        photos=iter(source.photos(seed=settings.seed)),
        classifier=load_classifier(settings.classifier),
        judge=load_judge(settings.judge, cache=settings.cache),
        keypair=keypair,
        corpus=corpus,
    )


# Prefect tasks are given a line's id, not the line: their parameters are stored by its server. And they ask a function
# for it: what a flow's code names is sent to a cluster's workers, a function of a module by its name, a dict as it is.
_lines: dict[str, Line] = {}


def line_of(line_id: str) -> Line:
    """The open line of that id."""
    return _lines[line_id]


@contextmanager
def opened_line(settings: Settings) -> Iterator[str]:
    """A line that `line_of` finds under the yielded id for as long as the context lasts."""
    line_id = uuid.uuid4().hex
    _lines[line_id] = open_line(settings)
    try:
        yield line_id
    finally:
        del _lines[line_id]
