"""The `produce` flow: rounds of challenge, answers, verdicts and commit.

The next challenge is drawn and being answered while the last round is verified and committed. Only the flow's own
thread draws and verifies, so the models are used by one thread at a time. A round that is slow to verify delays the
next draw, so at most two rounds are in flight.

The first SIGTERM or Ctrl-C commits the round whose answers are there and abandons the one that is being answered.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prefect import Task, flow, task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel

from perturb.flows.engine.artifacts import ShowRound
from perturb.flows.engine.distributed_verification import chosen_verifier
from perturb.flows.engine.prefect_server import ServerStart
from perturb.flows.engine.production_line import ProductionLine, RoundCounts, Verifier, opened_line
from perturb.flows.engine.progress import loading_progress, progress_bar
from perturb.flows.engine.retry import when_out_of_reach
from perturb.flows.engine.signals import Stop, stopped_by_signals
from perturb.schemas.errors import PerturbError
from perturb.schemas.settings import load_settings

# A run without end must not remember all its rounds.
_REMEMBERED = 100


class ProduceSummary(BaseModel):
    """What a run of `produce` committed. `refused` counts answers, `redrawn` photographs put back, by reason.

    `round_ids` are the last hundred; `stopped` says that a signal ended the run early.
    """

    store: str
    rounds: int = 0
    challenges: int = 0
    responses: int = 0
    accepted: int = 0
    refused: dict[str, int] = {}
    redrawn: dict[str, int] = {}
    round_ids: tuple[str, ...] = ()
    stopped: bool = False

    def with_round(self, finished: RoundCounts) -> "ProduceSummary":
        """Return this summary plus one committed round."""
        return ProduceSummary(
            store=self.store,
            rounds=self.rounds + 1,
            challenges=self.challenges + 1,
            responses=self.responses + finished.records,
            accepted=self.accepted + finished.accepted,
            refused=dict(Counter(self.refused) + Counter(finished.refused)),
            redrawn=dict(Counter(self.redrawn) + Counter(finished.redrawn)),
            round_ids=(*self.round_ids, finished.round_id)[-_REMEMBERED:],
        )


class Stages(NamedTuple):
    """The stages of one production line as Prefect tasks. They take and return references and small values."""

    draw: "Task[[], str]"
    collect: "Task[[str], bool]"
    finish: "Task[[str], RoundCounts]"


def stages_of(line: ProductionLine, verify: Verifier) -> Stages:
    """Return the tasks of `line`, which verify with `verify`.

    They close over both, so that neither becomes a parameter, which Prefect would store.
    """
    show_round = ShowRound()

    @task(name="draw")
    def draw() -> str:
        return line.draw()

    @task(name="collect")
    def collect(round_id: str) -> bool:
        return line.collect(round_id)

    # A retried commit writes the same bytes under the same names, so it is safe when the store fails for a moment.
    @task(name="verify and commit", retries=2, retry_delay_seconds=2, retry_condition_fn=when_out_of_reach)
    def finish(round_id: str) -> RoundCounts:
        finished = line.finish(round_id, verify)
        show_round(finished)
        return finished.counts

    return Stages(draw, collect, finish)


_RUNNER: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=2)


@flow(name="produce", task_runner=_RUNNER)
def produce(
    rounds: int = 1,
    continuous: bool = False,
    overlap: bool = True,
    local_miners: int = 0,
    store: str | None = None,
    source: str | None = None,
    seed: int | None = None,
) -> ProduceSummary:
    """Run `rounds` rounds against the subnet's neurons, or against `local_miners` reference miners that it starts.

    `continuous` (or 0 rounds) goes on until a signal ends it. Without `overlap` a round is verified before the next is
    drawn, which only serves to measure what overlap gains.
    """
    settings = load_settings(store=store, source=source, seed=seed)
    with contextlib.ExitStack() as stack:
        with loading_progress() as loading:
            line = stack.enter_context(opened_line(settings, local_miners=local_miners, loading=loading))
        return _run(line, rounds=rounds, continuous=continuous, overlap=overlap)


@contextlib.contextmanager
def prepared_produce(
    server: ServerStart,
    *,
    local_miners: int = 0,
    store: str | None = None,
    source: str | None = None,
    seed: int | None = None,
) -> Iterator[Callable[..., ProduceSummary]]:
    """Yield the `produce` flow with its parameters `rounds` and `continuous`, its line already open.

    The models load and the miners start while `server` does; the miners end with the block. Raises the error of the
    first part that is not ready.
    """
    settings = load_settings(store=store, source=source, seed=seed)
    with contextlib.ExitStack() as stack:
        with loading_progress() as loading:
            server.when_ready(loading.begin("Prefect server").ready)
            line = stack.enter_context(opened_line(settings, local_miners=local_miners, loading=loading))
            stack.enter_context(server.used())

        @flow(name="produce", task_runner=_RUNNER)
        def produce(rounds: int = 1, continuous: bool = False) -> ProduceSummary:
            return _run(line, rounds=rounds, continuous=continuous, overlap=True)

        yield produce


def _run(line: ProductionLine, *, rounds: int, continuous: bool, overlap: bool) -> ProduceSummary:
    total = None if continuous or rounds == 0 else rounds
    summary = ProduceSummary(store=line.settings.store)
    with (
        chosen_verifier(line) as verify,
        progress_bar("produce", total=total) as advance,
        stopped_by_signals(line.abandon) as stop,
    ):
        for finished in _rounds(stages_of(line, verify), total, stop, overlap=overlap):
            summary = summary.with_round(finished)
            advance(f"{summary.accepted} accepted, {sum(summary.refused.values())} refused")
        return summary.model_copy(update={"stopped": stop.requested})


def _rounds(stages: Stages, total: int | None, stop: Stop, *, overlap: bool) -> Iterator[RoundCounts]:
    """Commit round after round, each while the next one is being answered."""
    answered: str | None = None
    for _ in itertools.count() if total is None else range(total):
        if stop.requested:
            break
        try:
            drawn = stages.draw()
        except PerturbError:
            # There is no next challenge; the round that was answered is still verified and committed.
            if answered is not None:
                yield stages.finish(answered)
            raise
        if stop.requested:
            break
        answering = stages.collect.submit(drawn)
        if answered is not None:
            yield stages.finish(answered)
            answered = None
        if answering.result():
            answered = drawn
        if answered is not None and not overlap:
            yield stages.finish(answered)
            answered = None
    if answered is not None:
        yield stages.finish(answered)
