"""Audits one round or one sealed day: its rows, its files, and the images that the rows point to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import ValidationError

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS, Record, Row, record_id, task_fault
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.day_writer import DayTotals
from perturb.sinks.corpus.manifest import FileEntry, Manifest
from perturb.sinks.corpus.pointers import check_members, member_name, pointed_members
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.merkle import leaf_hash
from perturb.sinks.formats.parquet import rows_table
from perturb.sinks.formats.tar import Member
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store
from perturb.tasks.corpus.audit_duplicates import COLUMNS
from perturb.tasks.corpus.audit_images import ImageAuditor, check_signature, file_faults
from perturb.tasks.corpus.audit_tables import table_faults
from perturb.tasks.lineup.check_draw import DrawChecker
from perturb.tasks.verify.reverify import refusal_faults

# The columns that the images of a shard are compared with. The deep audit reads all columns.
_COLUMNS = (
    *("record_id", "original_sha256", "perturbed_sha256", "body_sha256", "height", "width", "outcome"),
    *POINTERS,
)
# A column that a file lacks is null, which changes no leaf.
_NULLS: Row = dict.fromkeys(Record.model_fields)


@dataclass(frozen=True)
class Fault:
    """A fault: `where` is a key in the store, with a record ID when it concerns one record; `what` is a sentence."""

    where: str
    what: str


@dataclass
class AuditFindings:
    """The findings of the audit of one round or day. `signer` is the hotkey that it names as its signer, if any.

    `tasks` are the task IDs of its records, each with the first of their record IDs, `duplicates` its
    duplicates, with the columns that their audit compares.
    """

    where: str
    records: int = 0
    images: int = 0
    reverified: int = 0
    signer: str | None = None
    tasks: dict[str, str] = field(default_factory=dict)
    duplicates: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, what: str, *, where: str | None = None) -> None:
        """Add a fault of `where` (default: the whole round or day)."""
        self.faults.append(Fault(where or self.where, what))


def audit_round(
    store: Store, ref: RoundRef, stored: StoredRound, *, auditor: ImageAuditor, draws: DrawChecker, trust: Trust
) -> AuditFindings:
    """Audit one committed round, which a validator that `trust` names must have signed."""
    found = AuditFindings(ref.commit_key, records=stored.table.num_rows, signer=stored.statement.signer)
    try:
        for what in stored.faults():
            found.fault(what)
        _ = stored.rows
    except CorpusError as error:
        found.fault(str(error))
        return found
    if [row for row in stored.rows if not _is_record(row, found)]:
        return found
    if stored.statement.round_id != ref.round_id:
        found.fault(f"it states that it is round {stored.statement.round_id}")
    # An invalid signature is among the round's own faults.
    for fault in (trust.signer_fault(stored.statement.signer), stored.speaker_fault()):
        if fault:
            found.fault(fault)
    rows = [_NULLS | row for row in stored.rows]
    for row in rows:
        _check_row(row, found, draws, deep=auditor.deep)
        if row["round_id"] != ref.round_id:
            found.fault(f"the record belongs to round {row['round_id']}", where=_at(found, row))
    folder = keys.round_folder(ref.day, ref.round_id)
    files = [entry.model_copy(update={"key": folder + entry.key}) for entry in stored.statement.files]
    _check_shards_named(rows, files, found)
    if sum(entry.rows for entry in files if entry.kind == "perturbed") != stored.statement.images:
        found.fault(f"the round states {stored.statement.images} images, its shards state another number")
    for entry in files:
        mine = [row for row in rows if row[f"{entry.kind}_shard"] == entry.key]
        _audit_shard(store, entry, mine, auditor, found)
    return found


def audit_day(
    corpus: Corpus, manifest: Manifest, where: str, *, auditor: ImageAuditor, draws: DrawChecker, trust: Trust
) -> AuditFindings:
    """Audit one sealed day, which a validator that `trust` names must have signed."""
    found = AuditFindings(where, signer=manifest.signer)
    if fault := manifest.refusal(trust):
        found.fault(fault)
    for entry in manifest.file("metadata"):
        if auditor.reads_all and (what := file_faults(corpus.store, entry)):
            found.fault(what, where=entry.key)
    totals = DayTotals()
    shards = {entry.key for entry in manifest.files}
    try:
        for rows in corpus.rows(manifest):
            _count_rows(rows, totals, shards, found, draws, deep=auditor.deep)
    except (CorpusError, ObjectCorrupt, ObjectMissing) as error:
        found.fault(str(error))
        return found
    _compare(manifest, totals, found)
    for key, what in table_faults(corpus, manifest, totals):
        found.fault(what, where=key)
    for entry in manifest.files:
        if entry.kind in ("original", "perturbed"):
            try:
                rows = _shard_rows(corpus, manifest, entry, deep=auditor.deep)
            except (pa.ArrowException, OSError, ValueError) as error:
                found.fault(f"the rows that point to it cannot be read: {error}", where=entry.key)
                continue
            _audit_shard(corpus.store, entry, rows, auditor, found)
    return found


def _shard_rows(corpus: Corpus, manifest: Manifest, entry: FileEntry, *, deep: bool) -> list[Row]:
    """Return the rows that point into one shard, with the columns that the audit needs."""
    import pyarrow.dataset as ds

    records = corpus.metadata(manifest)
    if f"{entry.kind}_shard" not in records.schema.names:
        return []
    columns = None if deep else [name for name in _COLUMNS if name in records.schema.names]
    table = records.to_table(columns=columns, filter=ds.field(f"{entry.kind}_shard") == entry.key)
    return [_NULLS | row for row in table.to_pylist()]


def _count_rows(
    rows: list[Row], totals: DayTotals, shards: set[str], found: AuditFindings, draws: DrawChecker, *, deep: bool
) -> None:
    if [row for row in rows if not _is_record(row, found)]:
        raise CorpusError("the rows are not all valid records, so that the rest of the day was not audited")
    rows = [_NULLS | row for row in rows]
    last = next(reversed(totals.leaves), "")
    for row in rows:
        _check_row(row, found, draws, deep=deep)
        if row["record_id"] in totals.leaves:
            found.fault("the record ID occurs twice", where=_at(found, row))
        elif row["record_id"] < last:
            found.fault("the rows of the day are not sorted by their record IDs", where=_at(found, row))
        last = row["record_id"]
        totals.leaves[row["record_id"]] = leaf_hash(row)
        if not {row["original_shard"], row["perturbed_shard"]} - {None} <= shards:
            found.fault("the record points to a shard that does not belong to this day", where=_at(found, row))
    found.records += len(rows)
    totals.count(rows)
    table = rows_table(rows)
    totals.summarise(table)
    totals.asked.add(table)


def _compare(manifest: Manifest, totals: DayTotals, found: AuditFindings) -> None:
    """Compare the manifest's figures with those of the rows."""
    if totals.merkle_root != manifest.merkle_root:
        found.fault("the rows differ from those that were sealed: their Merkle root is not the manifest's")
    stated_images = sum(entry.rows for entry in manifest.file("perturbed"))
    stated_originals = sum(entry.rows for entry in manifest.file("original"))
    figures = {
        "records": (manifest.records, len(totals.leaves)),
        "images": (manifest.images, totals.outcomes[Outcome.ACCEPTED]),
        "images in shards": (stated_images, totals.outcomes[Outcome.ACCEPTED]),
        "originals": (manifest.originals, stated_originals),
        "outcomes": (manifest.outcomes, dict(totals.outcomes)),
        "validators": (manifest.validators, tuple(sorted(totals.validators))),
    }
    for name, (stated, counted) in figures.items():
        if stated != counted:
            found.fault(f"the manifest states {name}: {stated}; the rows have: {counted}")


def _is_record(row: Row, found: AuditFindings) -> bool:
    """Return whether a row is a valid record. Columns that an older program did not write count as null, and those
    that only a newer one knows are covered by the Merkle leaf alone.

    Terms of the challenge that the record's task id does not stand for are a fault too, but the row can be read.
    """
    try:
        record = Record.model_validate(_known(row))
    except ValidationError as error:
        first = error.errors()[0]
        found.fault(f"column {first['loc'][0]} is {first['input']!r}: {first['msg']}", where=_at(found, row))
        return False
    if fault := task_fault(record):
        found.fault(fault, where=_at(found, row))
    return True


def _known(row: Row) -> Row:
    return {name: row.get(name) for name in Record.model_fields}


def _check_row(row: Row, found: AuditFindings, draws: DrawChecker, *, deep: bool) -> None:
    """Check that a row is consistent with itself. `deep` also checks the figures of refused responses."""
    found.tasks[row["task_id"]] = min(row["record_id"], found.tasks.get(row["task_id"], row["record_id"]))
    if row["outcome"] == Outcome.DUPLICATE:
        found.duplicates.append({name: row.get(name) for name in COLUMNS})
    answer = row["perturbed_sha256"] or row["body_sha256"]
    if row["record_id"] != record_id(row["created_at"], row["task_id"], row["miner_hotkey"], answer):
        found.fault("the record ID does not follow from day, task, miner and response", where=_at(found, row))
    accepted = row["outcome"] == Outcome.ACCEPTED
    if accepted != (row["perturbed_shard"] is not None):
        state = "accepted without an image" if accepted else f"{row['outcome']}, but has an image"
        found.fault(f"the record is {state}", where=_at(found, row))
    paid_in_its_round = row["outcome"] == Outcome.DUPLICATE and row["margin"] is not None
    if not accepted and row["score"] != 0 and not paid_in_its_round:
        found.fault(f"the record is {row['outcome']}, but has a score of {row['score']:g}", where=_at(found, row))
    elif not accepted and deep:
        for what in refusal_faults(_known(row)):
            found.fault(what, where=_at(found, row))
    if accepted and found.signer is not None and row["miner_signature"] is None:
        found.fault("the record is accepted without its miner's signature", where=_at(found, row))
    for fault in (check_signature(row), draws.fault(row)):
        if fault:
            found.fault(fault, where=_at(found, row))


def _check_shards_named(rows: Sequence[Row], files: Sequence[FileEntry], found: AuditFindings) -> None:
    stored = {entry.key for entry in files} | {None}
    for row in rows:
        if row["original_shard"] not in stored or row["perturbed_shard"] not in stored:
            found.fault("the record points to a shard that does not belong to this round", where=_at(found, row))


def _audit_shard(
    store: Store, entry: FileEntry, rows: Sequence[Row], auditor: ImageAuditor, found: AuditFindings
) -> None:
    try:
        members = pointed_members(rows, entry.key, entry.kind)
    except ValueError as error:
        found.fault(str(error), where=entry.key)
        return
    for what in check_members(members, entry):
        found.fault(what, where=entry.key)
    by_name: dict[str, Row] = {}
    for row in rows:
        by_name.setdefault(member_name(row, entry.kind), row)
    pairs: list[tuple[Member, Row]] = [(members[name], by_name[name]) for name in members]
    shard = auditor.audit_shard(store, entry, sorted(pairs, key=lambda pair: pair[0].offset))
    found.images += shard.images
    found.reverified += shard.reverified
    for where, what in shard.faults:
        found.fault(what, where=where)


def _at(found: AuditFindings, row: Row) -> str:
    return f"{found.where} record {row['record_id']}"
