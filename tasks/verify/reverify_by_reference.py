"""Re-verification by reference: a worker gets the names of records and reads their images itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Self

from perturb.models.classifier import Classifier
from perturb.schemas.errors import CorpusError
from perturb.schemas.pair import Pair
from perturb.schemas.record import POINTERS, Row
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.tasks.verify.reverify import reverify_pairs


@dataclass(frozen=True)
class RecordRef:
    """A record of a live round: the partition that the round lies in, the round's id, and the record's id."""

    day: date
    round_id: str
    record_id: str

    @classmethod
    def of(cls, row: Row) -> Self:
        """Return the reference to a row that was read from a live round.

        Raises CorpusError where the row has no image, or where its image lies outside the folder of a round.
        """
        shard = row["perturbed_shard"]
        folder, _, _ = (shard or "").rpartition("/")
        day = keys.folder_day(folder.removeprefix(keys.ROUNDS).partition("/")[0])
        if day is None or f"{folder}/" != keys.round_folder(day, row["round_id"]):
            raise CorpusError(
                f"record {row['record_id']} has its image at {shard!r}; accepted: a shard in "
                f"{keys.ROUNDS}date=2026-01-31/{row['round_id']}/"
            )
        return cls(day, row["round_id"], row["record_id"])


def reverify_references(
    corpus: Corpus, references: Sequence[RecordRef], *, classifier: Classifier, settings: Settings
) -> list[str | None]:
    """Return what `reverify_pairs` says of each record: None if its claims hold, else the faults in one sentence.

    Each round's metadata is read once, and each image once. A round, a record or an image that is not there is a
    fault of that record. Raises StoreError where the store itself is out of reach.
    """
    rounds = {RoundRef(ref.day, ref.round_id) for ref in references}
    rows = {(ref.day, ref.round_id): _rows(corpus, ref) for ref in rounds}
    found = _pairs(corpus, [_row(rows[ref.day, ref.round_id], ref) for ref in references])
    pairs = [pair for pair in found if isinstance(pair, Pair)]
    faults = iter(reverify_pairs(pairs, classifier=classifier, settings=settings))
    return [next(faults) if isinstance(pair, Pair) else pair for pair in found]


def _rows(corpus: Corpus, ref: RoundRef) -> dict[str, Row] | str:
    """The rows of a round by their record ids, or the fault that keeps them from being read."""
    try:
        return {row["record_id"]: row for row in corpus.read_round(ref).rows}
    except (ObjectMissing, ObjectCorrupt, CorpusError) as error:
        return f"its round can't be read: {error}"


def _row(rows: dict[str, Row] | str, ref: RecordRef) -> Row | str:
    if isinstance(rows, str):
        return rows
    if ref.record_id not in rows:
        return f"round {ref.round_id} ({ref.day}) has no record {ref.record_id}"
    row = rows[ref.record_id]
    empty = [name for name in POINTERS if row[name] is None]
    return f"no image to verify again: {', '.join(empty)} null" if empty else row


def _pairs(corpus: Corpus, rows: Sequence[Row | str]) -> list[Pair | str]:
    """The images of the rows, all in one call; where a shard is damaged, row by row, so that the fault has a name."""
    readable = [row for row in rows if not isinstance(row, str)]
    found: list[Pair | str]
    try:
        found = list(corpus.read_pairs(readable))
    except (ObjectMissing, ObjectCorrupt, ValueError):
        found = [_pair(corpus, row) for row in readable]
    rest = iter(found)
    return [row if isinstance(row, str) else next(rest) for row in rows]


def _pair(corpus: Corpus, row: Row) -> Pair | str:
    try:
        (pair,) = corpus.read_pairs([row])
    except (ObjectMissing, ObjectCorrupt, ValueError) as error:
        return f"an image can't be read: {error}"
    return pair
