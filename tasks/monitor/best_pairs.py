"""The accepted pairs of a corpus with the best scores, for pictures."""

from collections import Counter
from collections.abc import Sequence
from datetime import date

import pyarrow.dataset as ds

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.sinks.corpus.corpus import Corpus


def best_pairs(corpus: Corpus, number: int, *, day: date | None = None) -> list[Pair]:
    """Return `number` accepted pairs of `day`, or of all days, the best scores first.

    Each photograph gives its best pair before any gives its second best. Raises CorpusError where no record is
    accepted.
    """
    records = corpus.dataset(days=[day] if day else None)
    accepted = accepted_rows(records, columns=["original_sha256", "score", "record_id"])
    if not accepted:
        raise CorpusError(
            f"there is no accepted record{f' on {day}' if day else ''} to draw; `perturb produce` makes some"
        )
    drawn: Counter[str] = Counter()
    ranks: dict[str, int] = {}
    for row in sorted(accepted, key=lambda row: (-row["score"], row["record_id"])):
        ranks[row["record_id"]] = drawn[row["original_sha256"]]
        drawn[row["original_sha256"]] += 1
    # `sorted` is stable: pairs of one rank stay in the order of their scores.
    chosen = sorted(ranks, key=lambda record_id: ranks[record_id])[:number]
    rows = {row["record_id"]: row for row in accepted_rows(records, among=chosen)}
    return corpus.read_pairs([rows[record_id] for record_id in chosen])


def accepted_rows(
    records: ds.Dataset, *, columns: list[str] | None = None, among: Sequence[str] | None = None
) -> list[Row]:
    """Return the accepted ones of `records`, or of those with the IDs `among`: the given columns, or all of them."""
    wanted = ds.field("outcome") == Outcome.ACCEPTED
    if among is not None:
        wanted &= ds.field("record_id").isin(list(among))
    rows: list[Row] = records.to_table(columns=columns, filter=wanted).to_pylist()
    return rows
