"""The latest accepted pairs of a corpus, for the status page."""

from itertools import islice

from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import HORIZON, Corpus
from perturb.sinks.corpus.own_round import read_own_round
from perturb.tasks.monitor.best_pairs import accepted_rows

# The most rounds that are read for each wanted pair; a round without an accepted answer gives none.
_ROUNDS_PER_PAIR = 4


def latest_pairs(corpus: Corpus, number: int, *, trust: Trust = ANYONE) -> list[Pair]:
    """Return the best accepted pair of each of the latest rounds, latest first; at most `number`, perhaps none.

    Only rounds and days that a validator of `trust` signed are looked at.
    Only where no live round has an accepted answer are those of the last sealed day taken.
    """
    return corpus.read_pairs(_live_rows(corpus, number, trust) or _sealed_rows(corpus, number, trust))


def _live_rows(corpus: Corpus, number: int, trust: Trust) -> list[Row]:
    rows: list[Row] = []
    for ref in reversed(corpus.live_rounds(trust)[-_ROUNDS_PER_PAIR * number :]):
        stored = read_own_round(corpus, ref, trust)
        if isinstance(stored, str):
            continue
        accepted = [row for row in stored.rows if row["outcome"] == Outcome.ACCEPTED]
        rows += [max(accepted, key=lambda row: row["score"])] if accepted else []
        if len(rows) == number:
            break
    return rows


def _sealed_rows(corpus: Corpus, number: int, trust: Trust) -> list[Row]:
    newest = next((day for day in islice(corpus.days_back(trust), HORIZON) if day.refusal(trust) is None), None)
    if newest is None:
        return []
    accepted = accepted_rows(corpus.metadata(newest))
    best = {row["round_id"]: row for row in sorted(accepted, key=lambda row: row["score"])}
    return [best[round_id] for round_id in sorted(best, reverse=True)[:number]]
