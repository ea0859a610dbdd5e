"""The `produce` flow: rounds of challenge, answers, verdicts and commit.

The next challenge is drawn and being answered while the last round is verified and committed. Only the flow's own
thread draws and verifies, so the models are never entered twice; a round that is slow to verify holds the next draw
back, so nothing piles up: two rounds are alive at most.

The first SIGTERM or Ctrl-C commits the round whose answers are there and abandons the one that is being answered.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefect import flow, task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel

from perturb.flows.engine.artifacts import show_round
from perturb.flows.engine.distributed_verification import spreading
from perturb.flows.engine.production_line import FinishedRound, line_of, opened_line
from perturb.flows.engine.progress import progress_bar
from perturb.flows.engine.retry import when_out_of_reach
from perturb.flows.engine.signals import Stop, stopped_by_signals
from perturb.miner.local import start_local_miners
from perturb.schemas.errors import PerturbError
from perturb.schemas.settings import load_settings

# A run without end must not remember every round that it ever made.
_REMEMBERED = 100


class ProduceSummary(BaseModel):
    """What a run of `produce` left behind. `refused` counts reasons, `redrawn` the photographs put back.

    `round_ids` are the last hundred; `stopped` says that a signal ended the run before its time.
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

    def with_round(self, finished: FinishedRound) -> "ProduceSummary":
        """This summary plus one committed round."""
        return ProduceSummary(
            store=self.store,
            rounds=self.rounds + 1,
            challenges=self.challenges + 1,
            responses=self.responses + finished.committed.records,
            accepted=self.accepted + finished.committed.accepted,
            refused=dict(Counter(self.refused) + Counter(finished.committed.refused)),
            redrawn=dict(Counter(self.redrawn) + Counter(finished.redrawn)),
            round_ids=(*self.round_ids, finished.committed.round_id)[-_REMEMBERED:],
        )


@task(name="draw")
def _draw(line_id: str) -> str:
    return line_of(line_id).draw()


@task(name="collect")
def _collect(line_id: str, round_id: str) -> bool:
    return line_of(line_id).collect(round_id)


# A retried commit writes the same bytes under the same names, so a hiccup of the store costs nothing.
@task(name="verify and commit", retries=2, retry_delay_seconds=2, retry_condition_fn=when_out_of_reach)
def _finish(line_id: str, round_id: str) -> FinishedRound:
    return line_of(line_id).finish(round_id)


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
    """Runs `rounds` rounds against the subnet's neurons, or against `local_miners` reference miners that it starts.

    `continuous` (or 0 rounds) goes on until a signal ends it. Without `overlap` a round is verified before the next is
    drawn, which is only good for measuring what overlap gains.
    """
    settings = load_settings(store=store, source=source, seed=seed)
    total = None if continuous or rounds == 0 else rounds
    with contextlib.ExitStack() as stack:
        if local_miners:
            miners = stack.enter_context(start_local_miners(local_miners, settings=settings))
            settings = settings.model_copy(update={"subnet": miners.subnet})
        line_id = stack.enter_context(opened_line(settings))
        stack.enter_context(spreading(line_of(line_id)))
        advance = stack.enter_context(progress_bar("produce", total=total))
        stop = stack.enter_context(stopped_by_signals(line_of(line_id).abandon))
        summary = ProduceSummary(store=settings.store)
        for finished in _rounds(line_id, total, stop, overlap=overlap):
            summary = summary.with_round(finished)
            show_round(finished, line_of(line_id).best)
            advance(f"{summary.accepted} accepted, {sum(summary.refused.values())} refused")
        return summary.model_copy(update={"stopped": stop.asked})


def _rounds(line_id: str, total: int | None, stop: Stop, *, overlap: bool) -> Iterator[FinishedRound]:
    """Commits round after round, each while the next one is being answered."""
    answered: str | None = None
    for _ in itertools.count() if total is None else range(total):
        if stop.asked:
            break
        try:
            drawn = _draw(line_id)
        except PerturbError:
            # No next challenge: the one that was answered is still worth its verdicts.
            if answered is not None:
                yield _finish(line_id, answered)
            raise
        if stop.asked:
            break
        answering = _collect.submit(line_id, drawn)
        if answered is not None:
            yield _finish(line_id, answered)
            answered = None
        if answering.result():
            answered = drawn
        if answered is not None and not overlap:
            yield _finish(line_id, answered)
            answered = None
    if answered is not None:
        yield _finish(line_id, answered)
