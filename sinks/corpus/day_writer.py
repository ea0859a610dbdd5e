"""Merges many rounds into the few large files of a sealed day, in one pass and in bounded memory.

Only the ID, the leaf and the pixel identity of each record stay in memory, and a row group. Images are stored in the
order of the rounds, rows in the order of their IDs.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS, Row, record_day
from perturb.sinks.corpus.keys import original_name, perturbed_name
from perturb.sinks.corpus.manifest import FileEntry, Kind
from perturb.sinks.corpus.miner_state import AskedRounds
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.corpus.sorted_rows import SortedRows
from perturb.sinks.formats.leaves import leaves_by_id
from perturb.sinks.formats.merkle import record_root
from perturb.sinks.formats.parquet import rows_table, table_writer, with_record_columns
from perturb.sinks.formats.tar import Member, TarWriter
from perturb.sinks.stores.base import ObjectWriter, Store

SUMMARISED = ("response_ms", "linf_levels", "l2", "psnr", "ssim", "margin", "adversarial_confidence", "score")
# The key of a shard, and an image in it.
_Place = tuple[str, Member]


@dataclass
class DayTotals:
    """What a manifest says about a day's contents, counted while the day is written or read.

    `leaves` maps record IDs to Merkle leaves, `sums` a metric to its count, minimum, sum and maximum. `asked` is what
    the state of miners follows from, `made_on` are the days that record IDs name, `rounds` the IDs of the rounds.
    """

    files: list[FileEntry] = field(default_factory=list)
    leaves: dict[str, bytes] = field(default_factory=dict)
    originals: int = 0
    images: int = 0
    duplicates: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    classifiers: set[tuple[str, str | None]] = field(default_factory=set)
    judges: set[tuple[str, str | None]] = field(default_factory=set)
    policies: set[str] = field(default_factory=set)
    validators: set[str] = field(default_factory=set)
    sums: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    asked: AskedRounds = field(default_factory=AskedRounds)
    made_on: set[date] = field(default_factory=set)
    rounds: set[str] = field(default_factory=set)

    @property
    def merkle_root(self) -> str:
        """Merkle root over all records, 64 hex digits."""
        return record_root(self.leaves)

    def statistics(self) -> list[Row]:
        """Return count, minimum, mean and maximum of the metrics in `SUMMARISED` without nulls, by their names."""
        return [
            {"column": name, "count": int(count), "min": low, "mean": total / count, "max": high}
            for name, (count, low, total, high) in sorted(self.sums.items())
        ]

    def models(self) -> list[Row]:
        """Return the classifiers, judges and scoring policies of the rows, sorted."""
        named = [("classifier", *model) for model in self.classifiers] + [("judge", *model) for model in self.judges]
        named += [("policy", policy, None) for policy in self.policies]
        ordered = sorted(named, key=lambda model: (model[0], model[1], model[2] or ""))
        return [{"role": role, "name": name, "sha256": digest} for role, name, digest in ordered]

    def count(self, rows: Sequence[Row]) -> None:
        """Count rows as they are in the sealed day."""
        self.outcomes.update(row["outcome"] for row in rows)
        self.classifiers.update((row["classifier"], row["classifier_sha256"]) for row in rows)
        self.judges.update((row["judge"], row["judge_sha256"]) for row in rows)
        self.policies.update(row["policy"] for row in rows)
        self.validators.update(row["validator_hotkey"] for row in rows)
        self.made_on.update(day for row in rows if (day := record_day(row["record_id"])) is not None)
        self.rounds.update(row["round_id"] for row in rows)

    def summarise(self, table: pa.Table) -> None:
        """Add the metrics of a table to `sums`."""
        for name in SUMMARISED:
            column = table.column(name)
            if (count := len(column) - column.null_count) > 0:
                bounds = pc.min_max(column).as_py()
                low, total, high = float(bounds["min"]), float(pc.sum(column).as_py()), float(bounds["max"])
                counted, lowest, summed, highest = self.sums.get(name, (0, low, 0.0, high))
                self.sums[name] = (counted + count, min(lowest, low), summed + total, max(highest, high))


def _published(key: str, kind: Kind, writer: ObjectWriter, rows: int) -> FileEntry:
    """Return the manifest's entry of a written file. Raises CorpusError when its key was taken by other bytes."""
    if not writer.won:
        raise CorpusError(f"{key} already exists with other bytes; run `perturb gc`, then seal again")
    return FileEntry(key=key, kind=kind, size=writer.size, sha256=writer.sha256, rows=rows)


@dataclass
class _Shard:
    """A tar that is being written. `closing` publishes it."""

    key: str
    file: ObjectWriter
    tar: TarWriter[ObjectWriter]
    closing: ExitStack


class _Shards:
    """Tars of one kind. A new one is begun when the target size (bytes) is reached."""

    def __init__(self, store: Store, folder: str, kind: Kind, *, target: int, stack: ExitStack):
        self._store, self._folder, self._kind, self._target, self._stack = store, folder, kind, target, stack
        self._open: _Shard | None = None
        self.files: list[FileEntry] = []

    def add(self, name: str, data: memoryview) -> _Place:
        """Append an image; return where it is stored."""
        shard = self._open = self._open or self._begin()
        member = shard.tar.add(name, data)
        if shard.file.size >= self._target:
            self.close()
        return shard.key, member

    def _begin(self) -> _Shard:
        key = f"{self._folder}{self._kind}-{len(self.files):05d}.tar"
        # A stack of its own inside the day's: a full shard is published at once, an unfinished one is dropped when the
        # day's stack ends with an error.
        closing = self._stack.enter_context(ExitStack())
        file = closing.enter_context(self._store.create(key))
        return _Shard(key, file, TarWriter(file), closing)

    def close(self) -> None:
        """Publish the open shard, if there is one."""
        if self._open is None:
            return
        shard, self._open = self._open, None
        shard.tar.finish()
        shard.closing.close()
        self.files.append(_published(shard.key, self._kind, shard.file, len(shard.tar.members)))


class DayWriter:
    """Merges rounds in the order in which they are added. `totals` is complete when the block of `day_writer` ended."""

    def __init__(self, original: _Shards, perturbed: _Shards, rows: SortedRows):
        self.totals = DayTotals()
        self.rows = rows
        self._original, self._perturbed = original, perturbed
        self._originals: dict[bytes, _Place] = {}
        self._pixels: dict[bytes, tuple[str, str]] = {}

    def add(self, stored: StoredRound, original: memoryview, perturbed: memoryview | None) -> None:
        """Append a round; `original` and `perturbed` are its tars. Rows are changed as `docs/corpus.md` says.

        Raises CorpusError when a record is in two rounds.
        """
        rows: list[Row] = []
        changed = False
        for row in stored.rows:
            row = dict(row)
            key, member = self._place_original(row, original)
            row |= {"original_shard": key, "original_offset": member.offset, "original_length": member.length}
            if row["outcome"] == Outcome.ACCEPTED and perturbed is not None:
                changed |= self._place_perturbed(row, perturbed)
            rows.append(row)
        if changed:
            table = rows_table(rows, with_record_columns([stored.table.schema]))
            leaves = leaves_by_id(table, lambda: rows)
        else:
            table, leaves = _with_pointers(stored.table, rows), stored.leaves
        if double := leaves.keys() & self.totals.leaves.keys():
            raise CorpusError(f"record {min(double)} is in two rounds and cannot be sealed; run `perturb audit`")
        self.totals.leaves.update(leaves)
        self.totals.count(rows)
        self.totals.asked.add(table)
        self._summarise(self.rows.add(table))

    def finish(self) -> None:
        """Publish the open shards. `day_writer` calls it, and writes the rows."""
        self._original.close()
        self._perturbed.close()
        self._summarise(self.rows.finish())
        self.totals.files += self._original.files + self._perturbed.files
        self.totals.originals = len(self._originals)

    def _summarise(self, table: pa.Table | None) -> None:
        if table is not None:
            self.totals.summarise(table)

    def _place_original(self, row: Row, tar: memoryview) -> _Place:
        identity = bytes.fromhex(row["original_sha256"])
        if identity not in self._originals:
            data = tar[row["original_offset"] : row["original_offset"] + row["original_length"]]
            self._originals[identity] = self._original.add(original_name(row["original_sha256"]), data)
        return self._originals[identity]

    def _place_perturbed(self, row: Row, tar: memoryview) -> bool:
        """Store an accepted image, or turn the row into a duplicate of the first record with its pixels.

        Returns whether the row became a duplicate.
        """
        identity = bytes.fromhex(row["perturbed_sha256"])
        first, its_round = self._pixels.setdefault(identity, (row["record_id"], row["round_id"]))
        if first != row["record_id"]:
            row |= {"perturbed_shard": None, "perturbed_offset": None, "perturbed_length": None}
            row |= {
                "outcome": str(Outcome.DUPLICATE),
                "duplicate_of": first,
                "duplicate_round": its_round,
                "detail": f"accepted in round {row['round_id']}; the day already holds the same pixels",
            }
            self.totals.duplicates += 1
            return True
        data = tar[row["perturbed_offset"] : row["perturbed_offset"] + row["perturbed_length"]]
        key, member = self._perturbed.add(perturbed_name(row["record_id"]), data)
        row |= {"perturbed_shard": key, "perturbed_offset": member.offset, "perturbed_length": member.length}
        self.totals.images += 1
        return False


@contextmanager
def day_writer(store: Store, folder: str, *, day: str, shard_bytes: int) -> Iterator[DayWriter]:
    """Yield a writer of `{folder}original-00000.tar`, `perturbed-00000.tar` and on, and `metadata-00000.parquet`.

    A tar is published when it has `shard_bytes`, the others when the block ends. When the block raises, the files that
    are not published are dropped. Raises CorpusError when a key is taken by other bytes.
    """
    key = f"{folder}metadata-00000.parquet"
    with ExitStack() as stack:
        rows = stack.enter_context(SortedRows())
        file = stack.enter_context(store.create(key))
        original = _Shards(store, folder, "original", target=shard_bytes, stack=stack)
        perturbed = _Shards(store, folder, "perturbed", target=shard_bytes, stack=stack)
        writer = DayWriter(original, perturbed, rows)
        yield writer
        writer.finish()
        with table_writer(file, statement={"kind": "sealed-day", "day": day}, columns=rows.columns) as table:
            for group in rows.groups():
                table.add(group)
    writer.totals.files.append(_published(key, "metadata", file, table.rows))
    writer.totals.files.sort(key=lambda entry: entry.key)


def _with_pointers(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    for name in POINTERS:
        place = table.schema.get_field_index(name)
        column = pa.array([row[name] for row in rows], table.schema.field(place).type)
        table = table.set_column(place, table.schema.field(place), column)
    return table.replace_schema_metadata(None)
