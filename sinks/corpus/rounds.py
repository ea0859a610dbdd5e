"""One round on the store: written so that it exists whole or not at all, and read back with everything checked."""

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Record
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import FileEntry, RoundStatement, Signer, parse_round
from perturb.sinks.formats.merkle import canonical_json, leaf_hash, record_root
from perturb.sinks.formats.parquet import TableWriter, open_table, read_statement, read_table, rows_table
from perturb.sinks.formats.tar import Member, TarWriter
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.base import Pieces, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundDraft:
    """A round laid out in memory: its tars, and the rows that point into them.

    The same draft gives the same bytes, except for the signature (sr25519 signatures are random).
    """

    round_id: str
    original: Pieces
    perturbed: Pieces | None
    rows: list[dict[str, Any]]
    bodies: Mapping[str, bytes]
    signer: Signer | None

    @cached_property
    def statement(self) -> RoundStatement:
        """What the round says of itself. Raises CorpusError where an image is not that of its record's digest."""
        _check_bodies(self.rows, self.bodies)
        digest = hashlib.sha256(self.original.join()).hexdigest()
        files = [FileEntry(key="original.tar", kind="original", size=self.original.tell(), sha256=digest, rows=1)]
        if self.perturbed is not None:
            size, rows = self.perturbed.tell(), len(self.bodies)
            files.append(FileEntry(key="perturbed.tar", kind="perturbed", size=size, sha256=None, rows=rows))
        return RoundStatement(
            format=FORMAT,
            round_id=self.round_id,
            records=len(self.rows),
            images=len(self.bodies),
            merkle_root=record_root({row["record_id"]: leaf_hash(row) for row in self.rows}),
            files=tuple(files),
        ).signed(self.signer)

    @cached_property
    def metadata(self) -> bytes:
        """The commit object: the rows as Parquet, under the statement."""
        table = rows_table(self.rows)
        sink = io.BytesIO()
        writer = TableWriter(sink, statement=self.statement.model_dump(mode="json"), brief=True)
        writer.add(table)
        writer.finish()
        return sink.getvalue()

    @property
    def size(self) -> int:
        """Bytes of the three objects."""
        perturbed = 0 if self.perturbed is None else self.perturbed.tell()
        return self.original.tell() + perturbed + len(self.metadata)


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


def draft_round(
    day: date,
    records: Sequence[Record],
    original_png: bytes,
    bodies: Mapping[str, bytes],
    *,
    signer: Signer | None = None,
) -> RoundDraft:
    """Lay out one round. `bodies` maps record ids of accepted records to the PNG as the miner sent it.

    Raises CorpusError for no records, mixed rounds, double ids, and accepted records without an image.
    """
    round_id = _only_round(records)
    folder = keys.round_folder(day, round_id)
    originals, perturbed = TarWriter(Pieces()), TarWriter(Pieces())
    original = originals.add(keys.original_name(records[0].original_sha256), original_png)
    rows = []
    for record in sorted(records, key=lambda record: record.record_id):
        row = record.model_dump() | _pointer("original", folder, original)
        if record.outcome == Outcome.ACCEPTED:
            if not (body := bodies.get(record.record_id, b"")):
                raise CorpusError(f"record {record.record_id} is accepted, but there is no image")
            row |= _pointer("perturbed", folder, perturbed.add(keys.perturbed_name(record.record_id), body))
        rows.append(row)
    return RoundDraft(
        round_id=round_id,
        original=originals.finish(),
        perturbed=perturbed.finish() if perturbed.members else None,
        rows=rows,
        bodies={row["record_id"]: bodies[row["record_id"]] for row in rows if row["perturbed_shard"] is not None},
        signer=signer,
    )


def _check_bodies(rows: Sequence[Mapping[str, Any]], bodies: Mapping[str, bytes]) -> None:
    for row in rows:
        body = bodies.get(row["record_id"])
        if body is not None and hashlib.sha256(body).hexdigest() != row["body_sha256"]:
            raise CorpusError(f"record {row['record_id']} is accepted, but its bytes are not those of its digest")


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


def write_round(store: Store, day: date, draft: RoundDraft) -> None:
    """Put the round's objects, the commit last. Doing it again with the same round changes nothing.

    Raises CorpusError when another round with the same id is there, StoreError when the store fails.
    """
    folder = keys.round_folder(day, draft.round_id)
    tars = [(folder + "original.tar", draft.original)]
    if draft.perturbed is not None:
        tars.append((folder + "perturbed.tar", draft.perturbed))
    commit = folder + keys.COMMIT
    taken = store.put_together(tars, commit, lambda: draft.metadata)
    if taken == commit:
        # Ours after all, under another signature: an earlier try of this process got through.
        there = read_round(store, day, draft.round_id)
        if _unsigned(there.statement) == _unsigned(draft.statement) and not there.faults():
            log.info("round %s was committed by an earlier try", draft.round_id)
            return
    if taken is not None:
        raise CorpusError(f"{folder} already holds other bytes; produce the round again under a new id")


def _unsigned(statement: RoundStatement) -> bytes:
    return canonical_json(statement.model_dump(mode="json", exclude={"signer", "signature"}))


def read_round(store: Store, day: date, round_id: str) -> StoredRound:
    """The metadata of a committed round. Raises ObjectMissing, or CorpusError where it cannot be read at all."""
    key = keys.commit_key(day, round_id)
    data = store.get(key)
    file = open_table(pa.BufferReader(data), key)
    table = read_table(file, key)
    return StoredRound(
        day=day,
        statement=parse_round(canonical_json(read_statement(file.schema_arrow, key)), key),
        commit_sha256=hashlib.sha256(data).hexdigest(),
        table=table,
        rows=table.to_pylist(),
    )
