"""One process's production line, assembled from the settings, and its three stages: draw, collect, finish.

Images stay in the process that works on them. Prefect's tasks close over the line; what they are given is a round's
id and what they return is `RoundCounts`, so that nothing large reaches Prefect.
"""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from pydantic import BaseModel

from perturb.flows.engine.progress import Loading
from perturb.miner.local import LocalMiners, StartingMiners, starting_local_miners
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import Judge, LanguageJudge, load_judge
from perturb.schemas.challenge import Challenge, Photo, new_round_id
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.sinks.corpus.corpus import Corpus
from perturb.sources import open_source
from perturb.subnet.keys import Keypair, load_keypair
from perturb.subnet.neurons import NeuronList, find_neurons
from perturb.tasks.challenge.collect import collect_responses
from perturb.tasks.challenge.draw import draw_challenge
from perturb.tasks.challenge.package import make_challenge
from perturb.tasks.corpus.commit import RoundSummary, commit_round
from perturb.tasks.corpus.remember import remember_committed, verify_once
from perturb.tasks.lineup.draw import TargetDraw
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score

# How long `abandon` may go unnoticed while a round waits for answers.
_ABANDON_SECONDS = 0.1


class Verifier(Protocol):
    """Verifies a round's answers, in this process or elsewhere."""

    def __call__(
        self, challenge: Challenge, responses: Sequence[Response], earlier: Mapping[str, EarlierAnswer]
    ) -> list[Verdict]:
        """Return one verdict for each response, in their order; `earlier` is that of `tasks.verify.round.verify`."""
        ...


class RoundCounts(BaseModel):
    """A committed round in numbers: `refused` by reason, and `redrawn`, the photographs put back, by reason."""

    round_id: str
    records: int
    accepted: int
    refused: dict[str, int]
    redrawn: dict[str, int]


@dataclass(frozen=True)
class FinishedRound:
    """A committed round, the photographs that were put back before its challenge was found (reason -> count), and
    its accepted pair of the highest score; `best` is None where no answer was accepted."""

    committed: RoundSummary
    redrawn: Mapping[str, int]
    best: Pair | None

    @property
    def counts(self) -> RoundCounts:
        """The round in numbers, without images and records."""
        return RoundCounts(
            round_id=self.committed.round_id,
            records=self.committed.responses,
            accepted=self.committed.accepted,
            refused=self.committed.refused,
            redrawn=dict(self.redrawn),
        )


class StaysHere:
    """An object of this process. Pickled, it is None on the other side.

    Prefect sends the code of a running flow and task to a cluster's workers as context, with all objects that the
    code closes over. The workers use none of them.
    """

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()


@dataclass
class _RoundInFlight:
    """A round between its draw and its commit."""

    challenge: Challenge
    redrawn: dict[str, int]
    neurons: NeuronList
    responses: list[Response] = field(default_factory=list)


class ProductionLine(StaysHere):
    """The parts of one production line. A round passes `draw`, `collect` and `finish`, in that order.

    `draw` and `finish` use the models and belong in one thread; `collect` only waits and may run beside them.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        photos: Iterator[Photo],
        judge: Judge,
        keypair: Keypair,
        corpus: Corpus,
    ):
        self.settings = settings
        self.judge = judge
        self.corpus = corpus
        self.targets = TargetDraw(corpus.store, settings)
        self._photos = photos
        self._keypair = keypair
        self._in_flight: dict[str, _RoundInFlight] = {}
        self._abandoned = threading.Event()

    def draw(self) -> str:
        """Draw target and challenge, and return the round's id.

        Raises SourceError, SubnetError where no neuron can be asked, and ModelError for a target that does not load.
        """
        neurons = find_neurons(self.settings.subnet, own_hotkey=self._keypair.ss58_address)
        now = datetime.now(UTC)
        target = self.targets.draw(new_round_id(now))
        drawn = draw_challenge(
            self._photos,
            partial(
                make_challenge,
                classifier=self.targets.classifier(target.sha256),
                judge=self.judge,
                settings=self.settings,
                now=now,
                drawn=target,
            ),
            max_draws=self.settings.challenge.max_draws,
        )
        round_id = drawn.challenge.round_id
        self._in_flight[round_id] = _RoundInFlight(drawn.challenge, dict(drawn.redrawn), neurons)
        return round_id

    def collect(self, round_id: str) -> bool:
        """Send the round's challenge to all its neurons; return False where `abandon` ended the wait and the round."""
        work = self._in_flight[round_id]
        responses = asyncio.run(self._collect(work))
        if responses is None:
            del self._in_flight[round_id]
            return False
        work.responses = responses
        return True

    async def _collect(self, work: _RoundInFlight) -> list[Response] | None:
        answers = asyncio.create_task(
            collect_responses(work.challenge, work.neurons.neurons, self._keypair, settings=self.settings.subnet)
        )
        while not answers.done() and not self._abandoned.is_set():
            await asyncio.wait([answers], timeout=_ABANDON_SECONDS)
        if answers.done():
            return answers.result()
        answers.cancel()
        # Its requests are closed before the loop is.
        await asyncio.wait([answers])
        return None

    def abandon(self) -> None:
        """End the wait for answers, now and from now on, from any thread. A round that is not committed is dropped."""
        self._abandoned.set()

    def classifier_of(self, challenge: Challenge) -> Classifier:
        """Return the network that a challenge attacks."""
        return self.targets.classifier(challenge.task.classifier_sha256)

    def verify(
        self, challenge: Challenge, responses: Sequence[Response], earlier: Mapping[str, EarlierAnswer]
    ) -> list[Verdict]:
        """Return one verdict for each response; the `Verifier` that works in this process."""
        return verify(
            challenge,
            responses,
            classifier=self.classifier_of(challenge),
            judge=self.judge,
            settings=self.settings,
            earlier=earlier,
        )

    def finish(self, round_id: str, verify: Verifier | None = None) -> FinishedRound:
        """Verify (with `verify`, by default in this process), claim the accepted answers, score and commit the round.

        A second call after a failure writes the same bytes.
        """
        work = self._in_flight[round_id]
        verdicts = verify_once(
            self.corpus,
            work.challenge,
            work.responses,
            partial(verify or self.verify, work.challenge, work.responses),
            days=self.settings.challenge.replay_days,
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
            validator_hotkey=self._keypair.ss58_address,
            signer=self._keypair,
        )
        del self._in_flight[round_id]
        return FinishedRound(committed, work.redrawn, _best_pair(work, committed))


def _best_pair(work: _RoundInFlight, committed: RoundSummary) -> Pair | None:
    accepted = (
        (record, response)
        for record, response in zip(committed.records, work.responses, strict=True)
        if record.outcome == Outcome.ACCEPTED
    )
    best = max(accepted, key=lambda pair: pair[0].score, default=None)
    return None if best is None else Pair(work.challenge.png, best[1].body, best[0].model_dump())


def _wait_for_miners(starting: StartingMiners, loading: Loading, count: int) -> LocalMiners:
    with loading.part(f"{count} local miners") as tell:
        return starting.wait(tell)


@contextmanager
def opened_line(settings: Settings, *, local_miners: int = 0, loading: Loading) -> Iterator[ProductionLine]:
    """Yield a production line on loaded models, and on `local_miners` reference miners that end with the block.

    The miners start while the models load; `loading` shows both. Raises the error of the first part that is not ready.
    """
    with ExitStack() as stack:
        corpus = Corpus.open_for_writing(settings)
        source = open_source(settings)
        keypair = load_keypair(settings.subnet)
        if local_miners:
            # Left last: the thread that waits for the miners ends when the miners do.
            waiting = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="local-miners"))
            starting = stack.enter_context(starting_local_miners(local_miners, settings=settings))
            started = waiting.submit(_wait_for_miners, starting, loading, local_miners)
        else:
            # Before the models: the neurons are what is most often not ready.
            find_neurons(settings.subnet, own_hotkey=keypair.ss58_address)
        remember_committed(corpus, days=settings.challenge.replay_days)
        with loading.part(f"classifier {settings.classifier.name}"):
            load_classifier(settings.classifier)
        with loading.part(f"judge {settings.judge.name}") as tell:
            judge = load_judge(settings.judge, cache=settings.cache, tell=tell)
            if isinstance(judge, LanguageJudge):
                judge.prepare(settings.cache, tell=tell)
        if local_miners:
            settings = settings.model_copy(update={"subnet": started.result().subnet})
        line = ProductionLine(
            settings,
            photos=iter(source.photos(seed=settings.seed)),
            judge=judge,
            keypair=keypair,
            corpus=corpus,
        )
        # Before the first round, so that none waits for a network.
        line.targets.load_all()
        yield line
