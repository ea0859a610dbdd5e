"""The latest accepted pairs of a corpus, for the status page."""

from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.monitor.best_pairs import accepted_rows

# The most rounds that are read for each wanted pair; a round without an accepted answer gives none.
_ROUNDS_PER_PAIR = 4


def latest_pairs(corpus: Corpus, number: int) -> list[Pair]:
    """Return the best accepted pair of each of the latest rounds, latest first; at most `number`, perhaps none.

    Only where no live round has an accepted answer are those of the last sealed day taken.
    """
    return corpus.read_pairs(_live_rows(corpus, number) or _sealed_rows(corpus, number))


def _live_rows(corpus: Corpus, number: int) -> list[Row]:
    rows: list[Row] = []
    for ref in reversed(corpus.live_rounds()[-_ROUNDS_PER_PAIR * number :]):
        accepted = [row for row in corpus.read_round(ref).rows if row["outcome"] == Outcome.ACCEPTED]
        rows += [max(accepted, key=lambda row: row["score"])] if accepted else []
        if len(rows) == number:
            break
    return rows


def _sealed_rows(corpus: Corpus, number: int) -> list[Row]:
    days = corpus.sealed_days()
    if not days:
        return []
    accepted = accepted_rows(corpus.dataset(days=days[-1:]))
    best = {row["round_id"]: row for row in sorted(accepted, key=lambda row: row["score"])}
    return [best[round_id] for round_id in sorted(best, reverse=True)[:number]]
