"""One round on the store: written so that it exists whole or not at all, and read back with everything checked."""

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa

from schemas.errors import CorpusError
from schemas.outcome import Outcome
from schemas.record import Record
from sinks import layout
from sinks.manifest import FORMAT, FileEntry, Kind, RoundStatement, Signer, parse_round
from sinks.merkle import canonical_json, leaf_hash, record_root
from sinks.parquet import TableWriter, open_table, read_rows, read_statement, rows_table
from sinks.store import Store
from sinks.tar import Member, TarWriter

log = logging.getLogger(__name__)
# Garbage collection leaves objects alone for longer than this; a faster round needs no second look at its tars.
_SLOW = timedelta(minutes=10)


@dataclass(frozen=True)
class RoundFiles:
    """A round ready to be written: the bytes of its objects and its statement."""

    round_id: str
    original: bytes
    perturbed: bytes | None
    metadata: bytes
    statement: RoundStatement

    @property
    def size(self) -> int:
        """Bytes of the three objects."""
        return len(self.original) + len(self.perturbed or b"") + len(self.metadata)


@dataclass(frozen=True)
class StoredRound:
    """A committed round's metadata, read and parsed; nothing of it is trusted before `faults` was asked."""

    day: date
    statement: RoundStatement
    commit_sha256: str
    table: pa.Table
    rows: list[dict[str, Any]]

    @cached_property
    def leaves(self) -> dict[str, bytes]:
        """Merkle leaf of each record id."""
        return {row["record_id"]: leaf_hash(row) for row in self.rows}

    def faults(self) -> list[str]:
        """Where the rows contradict the round's own signed statement."""
        found = []
        if len(self.rows) != self.statement.records:
            found.append(f"{len(self.rows)} rows, the round states {self.statement.records}")
        if len(self.leaves) != len(self.rows):
            found.append("a record id stands twice")
        if record_root(self.leaves) != self.statement.merkle_root:
            found.append("the rows are not those that were committed: their Merkle root differs from the stated one")
        if fault := self.statement.signature_fault():
            found.append(fault)
        return found


def build_round(
    day: date,
    records: Sequence[Record],
    original_png: bytes,
    bodies: Mapping[str, bytes],
    *,
    signer: Signer | None = None,
) -> RoundFiles:
    """Lay out one round. `bodies` maps record ids of accepted records to the PNG as the miner sent it.

    The same arguments give the same bytes, except for the signature (sr25519 signatures are random).
    Raises CorpusError for no records, mixed rounds, double ids, and accepted records without their very bytes.
    """
    round_id = _only_round(records)
    folder = layout.round_folder(day, round_id)
    ordered = sorted(records, key=lambda record: record.record_id)
    original_tar, perturbed_tar = io.BytesIO(), io.BytesIO()
    originals, perturbed = TarWriter(original_tar), TarWriter(perturbed_tar)
    original = originals.add(layout.original_name(ordered[0].original_sha256), original_png)
    originals.finish()
    rows = []
    for record in ordered:
        row = record.model_dump() | _pointer("original", folder, original)
        if record.outcome == Outcome.ACCEPTED:
            body = bodies.get(record.record_id, b"")
            if hashlib.sha256(body).hexdigest() != record.body_sha256:
                raise CorpusError(f"record {record.record_id} is accepted, but its bytes are not those of its digest")
            row |= _pointer("perturbed", folder, perturbed.add(layout.perturbed_name(record.record_id), body))
        rows.append(row)
    perturbed.finish()
    table = rows_table(rows)
    # The digests are taken from the rows as Arrow gives them back, which is how everybody else will see them.
    leaves = {row["record_id"]: leaf_hash(row) for row in table.to_pylist()}
    files = [_file("original", original_tar.getvalue(), 1)]
    if perturbed.members:
        files.append(_file("perturbed", perturbed_tar.getvalue(), len(perturbed.members)))
    statement = RoundStatement(
        format=FORMAT,
        round_id=round_id,
        records=len(rows),
        images=len(perturbed.members),
        merkle_root=record_root(leaves),
        files=tuple(files),
    ).signed(signer)
    sink = io.BytesIO()
    writer = TableWriter(sink, statement=statement.model_dump(mode="json"))
    writer.add(table)
    writer.finish()
    return RoundFiles(
        round_id=round_id,
        original=original_tar.getvalue(),
        perturbed=perturbed_tar.getvalue() if perturbed.members else None,
        metadata=sink.getvalue(),
        statement=statement,
    )


def _only_round(records: Sequence[Record]) -> str:
    if not records:
        raise CorpusError("a round without responses cannot be committed; ask at least one neuron")
    rounds = {(record.round_id, record.original_sha256) for record in records}
    if len(rounds) > 1:
        raise CorpusError(f"records of {len(rounds)} rounds cannot be committed as one; commit each round by itself")
    ids = [record.record_id for record in records]
    if len(set(ids)) < len(ids):
        double = next(record for record in records if ids.count(record.record_id) > 1)
        raise CorpusError(f"miner {double.miner_hotkey} answered round {double.round_id} twice; list each hotkey once")
    return records[0].round_id


def _pointer(image: str, folder: str, member: Member) -> dict[str, Any]:
    return {
        f"{image}_shard": f"{folder}{image}.tar",
        f"{image}_offset": member.offset,
        f"{image}_length": member.length,
    }


def _file(kind: Kind, data: bytes, rows: int) -> FileEntry:
    return FileEntry(key=f"{kind}.tar", kind=kind, size=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=rows)


def write_round(store: Store, day: date, files: RoundFiles, *, created_at: datetime) -> None:
    """Put the round's objects, the commit last. Doing it again with the same round changes nothing.

    Raises CorpusError when another round with the same id is there, StoreError when the store fails.
    """
    folder = layout.round_folder(day, files.round_id)
    for kind, data in (("original", files.original), ("perturbed", files.perturbed)):
        if data is not None and not store.put_new(f"{folder}{kind}.tar", data):
            raise _taken(folder)
    if datetime.now(UTC) - created_at > _SLOW:
        _check_present(store, folder, files.statement)
    if not store.put_new(folder + layout.COMMIT, files.metadata):
        # Ours after all, under another signature: an earlier try of this process got through.
        there = read_round(store, day, files.round_id)
        if _unsigned(there.statement) != _unsigned(files.statement) or there.faults():
            raise _taken(folder)
        log.info("round %s was committed by an earlier try", files.round_id)


def _check_present(store: Store, folder: str, statement: RoundStatement) -> None:
    """A producer that slept for days finds its tars collected as garbage; it must not claim them then."""
    for entry in statement.files:
        stored = store.head(folder + entry.key)
        if stored is None or stored.size != entry.size:
            raise CorpusError(f"{folder}{entry.key} is gone before its round was committed; produce a new round")


def _unsigned(statement: RoundStatement) -> bytes:
    return canonical_json(statement.model_dump(mode="json", exclude={"signer", "signature"}))


def _taken(folder: str) -> CorpusError:
    return CorpusError(f"{folder} already holds other bytes; produce the round again under a new id")


def read_round(store: Store, day: date, round_id: str) -> StoredRound:
    """The metadata of a committed round. Raises ObjectMissing, or CorpusError where it cannot be read at all."""
    key = layout.commit_key(day, round_id)
    data = store.get(key)
    file = open_table(pa.BufferReader(data), key)
    rows = [row for batch in read_rows(file, key) for row in batch]
    return StoredRound(
        day=day,
        statement=parse_round(canonical_json(read_statement(file.schema_arrow, key)), key),
        commit_sha256=hashlib.sha256(data).hexdigest(),
        table=file.read(),
        rows=rows,
    )
