"""Many rounds into the few large files of a sealed day, in one pass and in bounded memory.

Per record only its id, its leaf and the identity of its pixels stay in memory.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS, record_schema
from perturb.sinks.corpus.keys import original_name, perturbed_name
from perturb.sinks.corpus.manifest import FileEntry, Kind, ModelEntry, Numbers
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.merkle import leaf_hash, record_root
from perturb.sinks.formats.parquet import ROW_GROUP, TableWriter, rows_table
from perturb.sinks.formats.tar import Member, TarWriter
from perturb.sinks.stores.base import ObjectWriter, Store

SUMMARISED = ("response_ms", "linf_levels", "l2", "psnr", "ssim", "margin", "adversarial_confidence", "score")
_Place = tuple[str, Member]


@dataclass
class DayTotals:
    """Everything a manifest says about a day's contents, counted on the way."""

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
    sums: dict[str, list[float]] = field(default_factory=dict)

    @property
    def merkle_root(self) -> str:
        """Root over all records."""
        return record_root(self.leaves)

    def statistics(self) -> dict[str, Numbers]:
        """Count, minimum, mean and maximum of the main metrics, nulls left out."""
        return {
            name: Numbers(count=int(count), min=low, mean=total / count, max=high)
            for name, (count, low, total, high) in sorted(self.sums.items())
        }

    def count(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows as they stand in the sealed day."""
        self.outcomes.update(row["outcome"] for row in rows)
        self.classifiers.update((row["classifier"], row["classifier_sha256"]) for row in rows)
        self.judges.update((row["judge"], row["judge_sha256"]) for row in rows)
        self.policies.update(row["policy"] for row in rows)
        self.validators.update(row["validator_hotkey"] for row in rows)

    def summarise(self, table: pa.Table) -> None:
        """Add the main metrics of a table."""
        for name in SUMMARISED:
            column = table.column(name)
            if (count := len(column) - column.null_count) > 0:
                bounds = pc.min_max(column).as_py()
                fresh = [count, float(bounds["min"]), float(pc.sum(column).as_py()), float(bounds["max"])]
                old = self.sums.setdefault(name, [0, fresh[1], 0.0, fresh[3]])
                self.sums[name] = [old[0] + count, min(old[1], fresh[1]), old[2] + fresh[2], max(old[3], fresh[3])]


def model_entries(models: set[tuple[str, str | None]]) -> tuple[ModelEntry, ...]:
    """Sorted manifest entries of `(name, sha256)` pairs."""
    return tuple(
        ModelEntry(name=name, sha256=digest) for name, digest in sorted(models, key=lambda m: (m[0], m[1] or ""))
    )


class _Shards:
    """Tars of one kind, a new one begun when the target size is reached."""

    def __init__(self, store: Store, folder: str, kind: Kind, target: int, files: list[FileEntry]):
        self._store, self._folder, self._kind, self._target, self._files = store, folder, kind, target, files
        self._open: AbstractContextManager[ObjectWriter] | None = None
        self._count = 0

    def add(self, name: str, data: memoryview) -> _Place:
        if self._open is None:
            self._key = f"{self._folder}{self._kind}-{self._count:05d}.tar"
            self._open = self._store.create(self._key)
            self._file = self._open.__enter__()
            self._tar = TarWriter(self._file)
        member = self._tar.add(name, data)
        place = (self._key, member)
        if self._file.size >= self._target:
            self.close()
        return place

    def close(self) -> None:
        if self._open is None:
            return
        self._tar.finish()
        closing, self._open = self._open, None
        closing.__exit__(None, None, None)
        self._files.append(published(self._key, self._kind, self._file, len(self._tar.members)))
        self._count += 1

    def exit(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """The end of the merge: a shard that is still open then is one that must not be published."""
        if self._open is None:
            return None
        closing, self._open = self._open, None
        return closing.__exit__(kind, error, trace)


def published(key: str, kind: Kind, writer: ObjectWriter, rows: int) -> FileEntry:
    """The manifest's entry of a written file. Raises CorpusError if the name was taken by other bytes."""
    if not writer.won:
        raise CorpusError(f"{key} is already there with other bytes; run `perturb gc`, then seal again")
    return FileEntry(key=key, kind=kind, size=writer.size, sha256=writer.sha256, rows=rows)


class DayWriter:
    """Merges rounds, given in order, into `{folder}original-00000.tar`, `perturbed-…` and `metadata-00000.parquet`.

    Use as a context manager; the files of a block that raises are dropped. `totals` is complete after the block.
    """

    def __init__(self, store: Store, folder: str, *, day: str, shard_bytes: int):
        self.totals = DayTotals()
        self._store = store
        self._original = _Shards(store, folder, "original", shard_bytes, self.totals.files)
        self._perturbed = _Shards(store, folder, "perturbed", shard_bytes, self.totals.files)
        self._originals: dict[bytes, _Place] = {}
        self._pixels: dict[bytes, str] = {}
        self._pending: list[pa.Table] = []
        self._metadata_key = f"{folder}metadata-00000.parquet"
        self._metadata = store.create(self._metadata_key)
        self._statement = {"kind": "sealed-day", "day": day}

    def __enter__(self) -> Self:
        self._metadata_file = self._metadata.__enter__()
        with ExitStack() as undo:
            undo.push(self._metadata)
            self._table = TableWriter(self._metadata_file, statement=self._statement)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as parts:
            parts.push(self._metadata)
            parts.push(self._perturbed.exit)
            parts.push(self._original.exit)
            if error is not None:
                self._table.abort()
                raise error
            self._original.close()
            self._perturbed.close()
            self._flush()
            self._table.finish()
        self.totals.files.append(published(self._metadata_key, "metadata", self._metadata_file, self._table.rows))
        self.totals.files.sort(key=lambda entry: entry.key)
        self.totals.originals = len(self._originals)

    def add(self, stored: StoredRound, original: memoryview, perturbed: memoryview | None) -> None:
        """Append a round; `original` and `perturbed` are its tars. Rows are changed as `docs/corpus.md` says."""
        rows, changed = [], False
        for row in stored.rows:
            row = dict(row)
            key, member = self._place_original(row, original)
            row |= {"original_shard": key, "original_offset": member.offset, "original_length": member.length}
            if row["outcome"] == Outcome.ACCEPTED and perturbed is not None:
                changed |= self._place_perturbed(row, perturbed)
            rows.append(row)
        same_columns = stored.table.schema.names == record_schema().names
        if same_columns and not changed:
            table, leaves = _with_pointers(stored.table, rows), stored.leaves
        else:
            table = rows_table(rows)
            leaves = {row["record_id"]: leaf_hash(row) for row in table.to_pylist()}
        if double := leaves.keys() & self.totals.leaves.keys():
            raise CorpusError(f"record {min(double)} stands in two rounds; it cannot be sealed: run `perturb audit`")
        self.totals.leaves.update(leaves)
        self.totals.count(rows)
        self._pending.append(table)
        if sum(waiting.num_rows for waiting in self._pending) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending).combine_chunks()
            self.totals.summarise(table)
            self._table.add(table)
        self._pending = []

    def _place_original(self, row: dict[str, Any], tar: memoryview) -> _Place:
        identity = bytes.fromhex(row["original_sha256"])
        if identity not in self._originals:
            data = tar[row["original_offset"] : row["original_offset"] + row["original_length"]]
            self._originals[identity] = self._original.add(original_name(row["original_sha256"]), data)
        return self._originals[identity]

    def _place_perturbed(self, row: dict[str, Any], tar: memoryview) -> bool:
        """Store an accepted image, or turn the row into a duplicate of the record that had its pixels first."""
        identity = bytes.fromhex(row["perturbed_sha256"])
        first = self._pixels.setdefault(identity, row["record_id"])
        if first != row["record_id"]:
            row |= {"perturbed_shard": None, "perturbed_offset": None, "perturbed_length": None}
            row |= {
                "outcome": str(Outcome.DUPLICATE),
                "duplicate_of": first,
                "detail": f"accepted in round {row['round_id']}; the day already holds the same pixels",
            }
            self.totals.duplicates += 1
            return True
        data = tar[row["perturbed_offset"] : row["perturbed_offset"] + row["perturbed_length"]]
        key, member = self._perturbed.add(perturbed_name(row["record_id"]), data)
        row |= {"perturbed_shard": key, "perturbed_offset": member.offset, "perturbed_length": member.length}
        self.totals.images += 1
        return False


def _with_pointers(table: pa.Table, rows: list[dict[str, Any]]) -> pa.Table:
    for name in POINTERS:
        place = table.schema.get_field_index(name)
        column = pa.array([row[name] for row in rows], table.schema.field(place).type)
        table = table.set_column(place, table.schema.field(place), column)
    return table.replace_schema_metadata(None)
