"""What was accepted for each photograph in the last days, so that an answer sent again is known.

    past = log.read(original_sha256, round_id=..., now=...)     # before a round is verified
    while not log.claim(past, accepted): ...                    # before it is committed

A photograph has one small object, `answers/{2 digits}/{original_sha256}/{number}.arrow`. A claim creates the object
with the next number, which contains what it has read and the round's own answers, and deletes those that it has read.
So the cost of a round depends neither on the age nor on the size of the corpus. Objects are only ever created, and a
claim that finds an object it has not read afterwards has not succeeded: of two producers that accept the same pixels at
the same time, one is told to read again. All numbers that are there are read, so none is lost between two claims.

The state is derived: `perturb.tasks.corpus.remember` makes it again from what is committed. A round claims before it is
committed. If it dies in between, its answers count as given although no record has them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.errors import CorpusError, StoreError
from perturb.schemas.verdict import EarlierAnswer
from perturb.sinks.corpus import keys
from perturb.sinks.stores.base import ObjectMissing, Store

logger = logging.getLogger(__name__)
#: One row for each accepted answer to a photograph.
SCHEMA = pa.schema(
    [
        ("perturbed_sha256", pa.binary(32)),
        ("record_id", pa.binary(16)),
        ("round_id", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
    ]
)
# An object may be replaced while it is read. More often than this in a row means that something else is wrong.
_ATTEMPTS = 20


@dataclass(frozen=True)
class PastAnswers:
    """The answers to one photograph that other rounds accepted, as they were read, and the keys that they were in."""

    original_sha256: str
    round_id: str
    now: datetime
    table: pa.Table
    keys: frozenset[str]

    @cached_property
    def earlier(self) -> Mapping[str, EarlierAnswer]:
        """The first record with each pixel identity."""
        found: dict[str, EarlierAnswer] = {}
        for row in self.table.sort_by("created_at").to_pylist():
            found.setdefault(row["perturbed_sha256"].hex(), EarlierAnswer(row["record_id"].hex(), row["round_id"]))
        return found

    @property
    def next_key(self) -> str:
        """The key of the object that a claim creates."""
        numbers = [int(key.rpartition("/")[2].partition(".")[0]) for key in self.keys]
        return keys.answers_key(self.original_sha256, max(numbers, default=-1) + 1)


class AnswerLog:
    """Reads and writes the accepted answers of the last `days` on one store."""

    def __init__(self, store: Store, *, days: int):
        self._store, self._window = store, timedelta(days=days)

    def read(self, original_sha256: str, *, round_id: str, now: datetime) -> PastAnswers:
        """Return what rounds other than `round_id` accepted for a photograph in the days before `now`.

        Raises StoreError when the store cannot be read, and CorpusError when an object is damaged.
        """
        folder = keys.answers_folder(original_sha256)
        for _ in range(_ATTEMPTS):
            found = frozenset(entry.key for entry in self._store.entries(folder))
            try:
                tables = [self._load(key) for key in sorted(found)]
            except ObjectMissing:
                continue  # Another claim has just replaced it.
            table = pa.concat_tables([SCHEMA.empty_table(), *tables])
            table = table.filter(
                pc.and_(
                    pc.greater(table["created_at"], pa.scalar(now - self._window, SCHEMA.field("created_at").type)),
                    pc.not_equal(table["round_id"], round_id),
                )
            )
            return PastAnswers(original_sha256, round_id, now, table, found)
        raise StoreError(f"{folder} changed {_ATTEMPTS} times while it was read; run the step again")

    def claim(self, past: PastAnswers, accepted: Mapping[str, str]) -> bool:
        """Add a round's accepted answers, record IDs by pixel identity; return whether nothing else came in between.

        After False the caller reads again, compares its answers with what was added, and claims again. Claiming the
        same answers twice is harmless. Raises StoreError when the store fails.
        """
        if not accepted:
            return True
        rows = [
            {
                "perturbed_sha256": bytes.fromhex(identity),
                "record_id": bytes.fromhex(record_id),
                "round_id": past.round_id,
                "created_at": past.now,
            }
            for identity, record_id in accepted.items()
        ]
        return self.add(past, pa.Table.from_pylist(rows, schema=SCHEMA))

    def add(self, past: PastAnswers, rows: pa.Table) -> bool:
        """Add rows of `SCHEMA` to what was read; return whether nothing else came in between, as `claim`."""
        key = past.next_key
        if not self._store.put_new(key, _encode(pa.concat_tables([past.table, rows]))):
            return False
        present = {entry.key for entry in self._store.entries(keys.answers_folder(past.original_sha256))}
        if not present - past.keys <= {key}:
            return False
        for old in past.keys & present:
            try:
                self._store.delete(old)
            except StoreError as error:
                logger.warning("%s is left to the next claim of its photograph: %s", old, error)
        return True

    def _load(self, key: str) -> pa.Table:
        data = self._store.get(key)
        try:
            with pa.ipc.open_stream(pa.BufferReader(data)) as file:
                table = file.read_all()
            table.validate(full=True)
            if table.schema != SCHEMA:
                raise ValueError(f"its columns are {', '.join(table.schema.names)}")
        except (pa.ArrowInvalid, ValueError, OSError) as error:
            raise CorpusError(
                f"{key} is not readable ({error}); delete the folder {keys.ANSWERS}, and the next producer makes it "
                "again from the committed rounds"
            ) from error
        return table


def _encode(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table.combine_chunks())
    return memoryview(sink.getvalue())
