"""The `produce` flow: rounds of challenge, answers, verdicts and commit.

The next challenge is drawn and being answered while the last round is verified and committed. Only the flow's own
thread draws and verifies, so the models are never entered twice; a round that is slow to verify holds the next draw
back, so nothing piles up.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel

from flows.line import FinishedRound, lines, opened_line
from flows.progress import progress_bar
from miner.local import start_local_miners
from schemas.settings import load_settings


class ProduceSummary(BaseModel):
    """What a run of `produce` left behind. `refused` counts reasons, `redrawn` the photographs put back."""

    store: str
    rounds: int = 0
    challenges: int = 0
    responses: int = 0
    accepted: int = 0
    refused: dict[str, int] = {}
    redrawn: dict[str, int] = {}
    round_ids: tuple[str, ...] = ()

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
            round_ids=(*self.round_ids, finished.committed.round_id),
        )


@task(name="draw")
def _draw(line_id: str) -> str:
    return lines[line_id].draw()


@task(name="collect")
def _collect(line_id: str, round_id: str) -> int:
    return lines[line_id].collect(round_id)


# A retried commit writes the same bytes under the same names, so a hiccup of the store costs nothing.
@task(name="verify and commit", retries=2, retry_delay_seconds=2)
def _finish(line_id: str, round_id: str) -> FinishedRound:
    return lines[line_id].finish(round_id)


@flow(name="produce", task_runner=ThreadPoolTaskRunner(max_workers=2))
def produce(
    rounds: int = 1, local_miners: int = 0, store: str | None = None, source: str | None = None, seed: int | None = None
) -> ProduceSummary:
    """Runs `rounds` rounds against the subnet's neurons, or against `local_miners` reference miners that it starts."""
    settings = load_settings(store=store, source=source, seed=seed)
    with contextlib.ExitStack() as stack:
        if local_miners:
            miners = stack.enter_context(start_local_miners(local_miners, settings=settings))
            settings = settings.model_copy(update={"subnet": miners.subnet})
        line_id = stack.enter_context(opened_line(settings))
        advance = stack.enter_context(progress_bar("produce", total=rounds))
        summary = ProduceSummary(store=settings.store)
        for finished in _rounds(line_id, rounds):
            summary = summary.with_round(finished)
            advance(f"{summary.accepted} accepted, {sum(summary.refused.values())} refused")
        return summary


def _rounds(line_id: str, rounds: int) -> Iterator[FinishedRound]:
    """Commits round after round, each while the next one is being answered."""
    answered: str | None = None
    for _ in range(rounds):
        drawn = _draw(line_id)
        answering = _collect.submit(line_id, drawn)
        if answered is not None:
            yield _finish(line_id, answered)
        answering.result()
        answered = drawn
    if answered is not None:
        yield _finish(line_id, answered)
