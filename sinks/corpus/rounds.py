"""One round on the store. It is written so that it exists as a whole or not at all, and checked when it is read."""

import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pyarrow as pa

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS, Record, Row, record_schema
from perturb.schemas.signature import Signer
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import FileEntry, Kind, RoundStatement, parse_round
from perturb.sinks.formats.leaves import MANY, leaves_by_id, table_leaves
from perturb.sinks.formats.merkle import record_root
from perturb.sinks.formats.parquet import open_table, read_statement, read_table, rows_table, table_writer
from perturb.sinks.formats.tar import Member, TarWriter
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.base import Pieces, Store

log = logging.getLogger(__name__)
# A subnet numbers its neurons with 16 bits.
_MOST_ROWS = 1 << 16
# Columns that every version wrote, and by which a round is told from another.
_KNOWN = frozenset(Record.model_fields)
_ALWAYS = ("record_id", "round_id", "validator_hotkey", "body_sha256", "original_sha256", *POINTERS)


@dataclass(frozen=True)
class RoundDraft:
    """A round laid out in memory for the partition `day`: its tars, and the rows that point into them.

    The same round gives the same bytes, except for the signature (sr25519 signatures are random).
    """

    day: date
    round_id: str
    original: Pieces
    perturbed: Pieces | None
    rows: list[Row]
    bodies: Mapping[str, bytes]
    signer: Signer | None

    @cached_property
    def statement(self) -> RoundStatement:
        """The round's statement. Raises CorpusError when an image does not have the digest that its record states."""
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
            merkle_root=record_root(leaves_by_id(self._table, lambda: self.rows)),
            files=tuple(files),
        ).signed(self.signer)

    @cached_property
    def _table(self) -> pa.Table:
        return rows_table(self.rows)

    @cached_property
    def metadata(self) -> bytes:
        """The commit object: the rows as Parquet, with the statement in the schema metadata."""
        sink = io.BytesIO()
        with table_writer(sink, statement=self.statement.model_dump(mode="json"), brief=True) as writer:
            writer.add(self._table)
        return sink.getvalue()

    @property
    def size(self) -> int:
        """Bytes of the round's objects together."""
        perturbed = 0 if self.perturbed is None else self.perturbed.tell()
        return self.original.tell() + perturbed + len(self.metadata)


@dataclass(frozen=True)
class StoredRound:
    """A committed round's metadata, read and parsed. The rows are to be trusted only when `faults` returns none."""

    day: date
    statement: RoundStatement
    commit_sha256: str
    table: pa.Table

    @cached_property
    def rows(self) -> list[Row]:
        """The rows as dictionaries, which takes as long as all other reading.

        Raises CorpusError for a time that is before the year 1 or after 9999.
        """
        try:
            rows: list[Row] = self.table.to_pylist()
        except (ValueError, OverflowError) as error:
            raise CorpusError(f"round {self.statement.round_id} has a value that no record has: {error}") from error
        return rows

    @cached_property
    def leaves(self) -> dict[str, bytes]:
        """The Merkle leaf of each record ID. Raises CorpusError for values that JSON cannot hold."""
        return leaves_by_id(self.table, lambda: self.rows)

    def faults(self) -> list[str]:
        """Return where the rows contradict the round's own signed statement, and what is wrong with its signature."""
        fault = self.statement.signature_fault()
        return self.row_faults() + ([fault] if fault else [])

    def row_faults(self) -> list[str]:
        """Return where the rows contradict the round's own statement."""
        found = []
        if self.table.num_rows != self.statement.records:
            found.append(f"it has {self.table.num_rows} rows, its statement says {self.statement.records}")
        if len(self.leaves) != self.table.num_rows:
            found.append("a record ID occurs twice")
        if record_root(self.leaves) != self.statement.merkle_root:
            found.append("the rows differ from those that were committed: their Merkle root is not the stated one")
        return found

    def speaker_fault(self) -> str | None:
        """Return which other validators the rows of a signed round name; None when they name its signer only.

        A signed round must name its signer in each row, so that no validator speaks for another.
        """
        named = self.table["validator_hotkey"].unique().to_pylist()
        others = {str(validator) for validator in named} - {self.statement.signer}
        if self.statement.signer is None or not others:
            return None
        return f"it is signed by {self.statement.signer}, but its records are from {', '.join(sorted(others))}"


def share_leaves(rounds: Sequence[StoredRound]) -> None:
    """Compute the leaves of small rounds together, which takes a fraction of the time; each then has its own.

    Of rounds with other columns, and where a value has no leaf, each computes its own when it is asked for them.
    """
    small = [one for one in rounds if one.table.num_rows < MANY and one.table.schema.equals(record_schema())]
    if sum(one.table.num_rows for one in small) < MANY:
        return
    with suppress(CorpusError):
        leaves = iter(table_leaves(pa.concat_tables([one.table for one in small])))
        for one in small:
            # Where `cached_property` keeps it.
            vars(one)["leaves"] = dict(zip(one.table["record_id"].to_pylist(), leaves, strict=False))


def draft_round(
    day: date,
    records: Sequence[Record],
    original_png: bytes,
    bodies: Mapping[str, bytes],
    *,
    signer: Signer | None = None,
) -> RoundDraft:
    """Lay out one round for the partition `day`; return the draft, which is not written yet.

    `original_png` is the clean image. `bodies` maps the IDs of accepted records to the PNGs as the miners sent them.

    Raises CorpusError as `check_records` does, and when an accepted record has no image.
    """
    round_id = check_records(records)
    folder = keys.round_folder(day, round_id)
    originals, perturbed = TarWriter(Pieces()), TarWriter(Pieces())
    original = originals.add(keys.original_name(records[0].original_sha256), original_png)
    rows = []
    for record in sorted(records, key=lambda record: record.record_id):
        row = record.model_dump() | _pointer("original", folder, original)
        if record.outcome == Outcome.ACCEPTED:
            if not (body := bodies.get(record.record_id, b"")):
                raise CorpusError(f"record {record.record_id} is accepted, but has no image")
            row |= _pointer("perturbed", folder, perturbed.add(keys.perturbed_name(record.record_id), body))
        rows.append(row)
    return RoundDraft(
        day=day,
        round_id=round_id,
        original=originals.finish(),
        perturbed=perturbed.finish() if perturbed.members else None,
        rows=rows,
        bodies={row["record_id"]: bodies[row["record_id"]] for row in rows if row["perturbed_shard"] is not None},
        signer=signer,
    )


def _check_bodies(rows: Sequence[Row], bodies: Mapping[str, bytes]) -> None:
    for row in rows:
        body = bodies.get(row["record_id"])
        if body is not None and hashlib.sha256(body).hexdigest() != row["body_sha256"]:
            raise CorpusError(f"record {row['record_id']} is accepted, but its image does not have the stated digest")


def check_records(records: Sequence[Record]) -> str:
    """Return the ID of the round that all records belong to.

    Raises CorpusError when there are no records, when they belong to different rounds, and when two have the same ID.
    """
    if not records:
        raise CorpusError("a round without responses cannot be committed; send the challenge to at least one neuron")
    rounds = {(record.round_id, record.original_sha256) for record in records}
    if len(rounds) > 1:
        raise CorpusError(f"records of {len(rounds)} rounds cannot be committed as one; commit each round by itself")
    ids = [record.record_id for record in records]
    if len(set(ids)) < len(ids):
        double = next(record for record in records if ids.count(record.record_id) > 1)
        raise CorpusError(f"miner {double.miner_hotkey} answered round {double.round_id} twice; list each hotkey once")
    return records[0].round_id


def _pointer(image: Kind, folder: str, member: Member) -> Row:
    return {
        f"{image}_shard": f"{folder}{image}.tar",
        f"{image}_offset": member.offset,
        f"{image}_length": member.length,
    }


def write_round(store: Store, draft: RoundDraft) -> None:
    """Write the round's objects, the commit last. Writing the same round again changes nothing.

    Raises CorpusError when another round with the same ID exists, StoreError when the store fails.
    """
    folder = keys.round_folder(draft.day, draft.round_id)
    tars = [(folder + "original.tar", draft.original)]
    if draft.perturbed is not None:
        tars.append((folder + "perturbed.tar", draft.perturbed))
    commit = folder + keys.COMMIT
    taken = store.put_together(tars, commit, lambda: draft.metadata)
    if taken == commit:
        # The bytes differ at least in the signature, which is random. An earlier try may have written this round.
        stored = read_round(store, draft.day, draft.round_id)
        if _unsigned(stored.statement) == _unsigned(draft.statement) and not stored.faults():
            log.info("round %s was committed by an earlier try", draft.round_id)
            return
    if taken is not None:
        raise CorpusError(f"{folder} already has other bytes; produce the round again under a new ID")


def _unsigned(statement: RoundStatement) -> bytes:
    return canonical_json(statement.model_dump(mode="json", exclude={"signer", "signature"}))


def _as_signed(table: pa.Table) -> pa.Table:
    """Return a table without what no signature covers: unknown columns of nulls, and that a column may not be null."""
    table = table.replace_schema_metadata(None)
    if table.schema.equals(record_schema()):
        # Usually; field by field it takes as long as to read a small table.
        return table
    names = [name for name in table.schema.names if name in _KNOWN or table[name].null_count < table.num_rows]
    fields = [table.schema.field(name).with_nullable(True).remove_metadata() for name in names]
    return pa.table([table[name] for name in names], schema=pa.schema(fields))


class RoundRefused(CorpusError):
    """A round that no trusted validator signed; the message says why."""


def read_round(store: Store, day: date, round_id: str, trust: Trust | None = None) -> StoredRound:
    """Return the metadata of a committed round.

    Raises ObjectMissing, CorpusError when it cannot be parsed, and RoundRefused when no validator of `trust` signed it
    (None: whoever may have). That is asked before a row is read: a few bytes can be millions of rows of one value.
    """
    key = keys.commit_key(day, round_id)
    data = store.get(key)
    file = open_table(pa.BufferReader(data), key)
    statement = parse_round(read_statement(file, key), key)
    if trust is not None and (refusal := statement.refusal(trust)):
        raise RoundRefused(refusal)
    if (rows := file.metadata.num_rows) != statement.records or rows > _MOST_ROWS:
        raise CorpusError(
            f"{key} has {rows} rows, its statement says {statement.records}; accepted: as many, {_MOST_ROWS} at most"
        )
    table = read_table(file, key)
    names = set(table.schema.names)
    if missing := [name for name in _ALWAYS if name not in names]:
        raise CorpusError(f"{key} has no column {missing[0]}; it was not written by this pipeline")
    if table["record_id"].null_count:
        raise CorpusError(f"{key} has a record without an ID; it was not written by this pipeline")
    table = _as_signed(table)
    return StoredRound(
        day=day,
        statement=statement,
        commit_sha256=hashlib.sha256(data).hexdigest(),
        table=table,
    )
