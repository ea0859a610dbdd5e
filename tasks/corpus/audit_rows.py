"""Audits one round or one sealed day: its rows, its files, and the images that the rows point to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS, Record, Row, record_id
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.day_writer import DayTotals, model_entries
from perturb.sinks.corpus.manifest import FileEntry, Manifest, RoundStatement
from perturb.sinks.corpus.pointers import check_members, member_name, pointed_members
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.merkle import leaf_hash
from perturb.sinks.formats.parquet import rows_table
from perturb.sinks.formats.tar import Member
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store
from perturb.tasks.corpus.audit_images import ImageAuditor, check_signature, file_faults
from perturb.tasks.verify.reverify import refusal_faults

# The columns that the images of a shard are compared with. The deep audit reads all columns.
_COLUMNS = (
    *("record_id", "original_sha256", "perturbed_sha256", "body_sha256", "height", "width", "outcome"),
    *POINTERS,
)


@dataclass(frozen=True)
class Fault:
    """A fault: `where` is a key in the store, with a record ID when it concerns one record; `what` is a sentence."""

    where: str
    what: str


@dataclass
class AuditFindings:
    """The findings of the audit of one round or day. `tasks` are the task IDs of its records."""

    where: str
    records: int = 0
    images: int = 0
    reverified: int = 0
    signed: bool = False
    tasks: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, what: str, *, where: str | None = None) -> None:
        """Add a fault of `where` (default: the whole round or day)."""
        self.faults.append(Fault(where or self.where, what))


def audit_round(
    store: Store, ref: RoundRef, stored: StoredRound, *, auditor: ImageAuditor, hotkey: str | None
) -> AuditFindings:
    """Audit one committed round. `hotkey` is the validator that must have signed it; None accepts any."""
    found = AuditFindings(ref.commit_key, records=len(stored.rows), signed=stored.statement.signer is not None)
    try:
        for what in stored.faults():
            found.fault(what)
    except CorpusError as error:
        found.fault(str(error))
    if [row for row in stored.rows if not _is_record(row, found)]:
        return found
    if stored.statement.round_id != ref.round_id:
        found.fault(f"it states that it is round {stored.statement.round_id}")
    _check_signer(stored.statement, {row["validator_hotkey"] for row in stored.rows}, hotkey, found)
    for row in stored.rows:
        _check_row(row, found, deep=auditor.deep)
        if row["round_id"] != ref.round_id:
            found.fault(f"the record belongs to round {row['round_id']}", where=_at(found, row))
    folder = keys.round_folder(ref.day, ref.round_id)
    files = [entry.model_copy(update={"key": folder + entry.key}) for entry in stored.statement.files]
    _check_shards_named(stored.rows, files, found)
    if sum(entry.rows for entry in files if entry.kind == "perturbed") != stored.statement.images:
        found.fault(f"the round states {stored.statement.images} images, its shards state another number")
    for entry in files:
        rows = [row for row in stored.rows if row[f"{entry.kind}_shard"] == entry.key]
        _audit_shard(store, entry, rows, auditor, found)
    return found


def audit_day(
    corpus: Corpus, manifest: Manifest, where: str, *, auditor: ImageAuditor, hotkey: str | None
) -> AuditFindings:
    """Audit one sealed day. `hotkey` is the validator that must have signed it; None accepts any."""
    found = AuditFindings(where, signed=manifest.signer is not None)
    if fault := manifest.signature_fault():
        found.fault(fault)
    _check_signer(manifest, set(manifest.validators), hotkey, found)
    for entry in manifest.file("metadata"):
        if auditor.reads_all and (what := file_faults(corpus.store, entry)):
            found.fault(what, where=entry.key)
    totals = DayTotals()
    shards = {entry.key for entry in manifest.files}
    try:
        for rows in corpus.rows(manifest):
            _count_rows(rows, totals, shards, found, deep=auditor.deep)
    except (CorpusError, ObjectCorrupt, ObjectMissing) as error:
        found.fault(str(error))
        return found
    _compare(manifest, totals, found)
    for entry in manifest.files:
        if entry.kind != "metadata":
            rows = _shard_rows(corpus, manifest, entry, deep=auditor.deep)
            _audit_shard(corpus.store, entry, rows, auditor, found)
    return found


def _shard_rows(corpus: Corpus, manifest: Manifest, entry: FileEntry, *, deep: bool) -> list[Row]:
    """Return the rows that point into one shard, with the columns that the audit needs."""
    import pyarrow.dataset as ds

    rows: list[Row] = (
        corpus.metadata(manifest)
        .to_table(columns=None if deep else list(_COLUMNS), filter=ds.field(f"{entry.kind}_shard") == entry.key)
        .to_pylist()
    )
    return rows


def _count_rows(rows: list[Row], totals: DayTotals, shards: set[str], found: AuditFindings, *, deep: bool) -> None:
    if [row for row in rows if not _is_record(row, found)]:
        raise CorpusError("the rows are not all valid records, so that the rest of the day was not audited")
    for row in rows:
        _check_row(row, found, deep=deep)
        if row["record_id"] in totals.leaves:
            found.fault("the record ID occurs twice", where=_at(found, row))
        totals.leaves[row["record_id"]] = leaf_hash(row)
        if not {row["original_shard"], row["perturbed_shard"]} - {None} <= shards:
            found.fault("the record points to a shard that does not belong to this day", where=_at(found, row))
    found.records += len(rows)
    totals.count(rows)
    totals.summarise(rows_table(rows))


def _compare(manifest: Manifest, totals: DayTotals, found: AuditFindings) -> None:
    """Compare the manifest's figures with those of the rows."""
    if totals.merkle_root != manifest.merkle_root:
        found.fault("the rows differ from those that were sealed: their Merkle root is not the manifest's")
    stated_images = sum(entry.rows for entry in manifest.file("perturbed"))
    stated_originals = sum(entry.rows for entry in manifest.file("original"))
    figures = {
        "records": (manifest.records, len(totals.leaves)),
        "claimed records": (sum(claim.records for claim in manifest.rounds), len(totals.leaves)),
        "images": (manifest.images, totals.outcomes[Outcome.ACCEPTED]),
        "images in shards": (stated_images, totals.outcomes[Outcome.ACCEPTED]),
        "originals": (manifest.originals, stated_originals),
        "outcomes": (manifest.outcomes, dict(totals.outcomes)),
        "classifiers": (manifest.classifiers, model_entries(totals.classifiers)),
        "judges": (manifest.judges, model_entries(totals.judges)),
        "policies": (manifest.policies, tuple(sorted(totals.policies))),
        "validators": (manifest.validators, tuple(sorted(totals.validators))),
    }
    for name, (stated, counted) in figures.items():
        if stated != counted:
            found.fault(f"the manifest states {name}: {stated}; the rows have: {counted}")
    counted_statistics = totals.statistics()
    for column, numbers in manifest.statistics.items():
        again = counted_statistics.get(column)
        if again is None or not all(
            math.isclose(getattr(numbers, part), getattr(again, part), rel_tol=1e-9, abs_tol=1e-12)
            for part in ("count", "min", "mean", "max")
        ):
            found.fault(f"the manifest's statistics of {column} differ from those of the rows")


def _check_signer(
    statement: RoundStatement | Manifest, validators: set[str], hotkey: str | None, found: AuditFindings
) -> None:
    if hotkey is not None and statement.signer != hotkey:
        found.fault(f"it is signed by {statement.signer or 'no one'}, not by {hotkey}")
    elif statement.signer is not None and statement.signer not in validators:
        found.fault(f"it is signed by {statement.signer}, but its records are from {', '.join(sorted(validators))}")


def _is_record(row: Row, found: AuditFindings) -> bool:
    """Return whether a row is a valid record. Columns that an older version did not write count as null."""
    try:
        Record.model_validate({**dict.fromkeys(Record.model_fields), **row})
    except ValidationError as error:
        first = error.errors()[0]
        found.fault(f"column {first['loc'][0]} is {first['input']!r}: {first['msg']}", where=_at(found, row))
        return False
    return True


def _check_row(row: Row, found: AuditFindings, *, deep: bool) -> None:
    """Check that a row is consistent with itself. `deep` also checks the figures of refused responses."""
    found.tasks.add(row["task_id"])
    derived = record_id(row["task_id"], row["miner_hotkey"], row["perturbed_sha256"] or row["body_sha256"])
    if row["record_id"] != derived:
        found.fault("the record ID does not follow from task, miner and response", where=_at(found, row))
    accepted = row["outcome"] == Outcome.ACCEPTED
    if accepted != (row["perturbed_shard"] is not None):
        state = "accepted without an image" if accepted else f"{row['outcome']}, but has an image"
        found.fault(f"the record is {state}", where=_at(found, row))
    paid_in_its_round = row["outcome"] == Outcome.DUPLICATE and row["margin"] is not None
    if not accepted and row["score"] != 0 and not paid_in_its_round:
        found.fault(f"the record is {row['outcome']}, but has a score of {row['score']:g}", where=_at(found, row))
    elif not accepted and deep:
        for what in refusal_faults({**dict.fromkeys(Record.model_fields), **row}):
            found.fault(what, where=_at(found, row))
    if accepted and found.signed and row["miner_signature"] is None:
        found.fault("the record is accepted without its miner's signature", where=_at(found, row))
    if fault := check_signature(row):
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
