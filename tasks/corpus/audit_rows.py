"""One round or one sealed day under the glass: its rows, its files, and every image that they point to."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Record, record_id
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import RoundRef
from perturb.sinks.corpus.day_writer import DayTotals, model_entries
from perturb.sinks.corpus.manifest import FileEntry, Manifest, RoundStatement
from perturb.sinks.corpus.pointers import check_members, pointed_members
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.merkle import leaf_hash
from perturb.sinks.formats.parquet import open_table, read_rows, rows_table
from perturb.sinks.formats.tar import Member
from perturb.sinks.stores.arrow import open_filesystem
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store
from perturb.tasks.corpus.audit_images import Glass, check_signature, file_faults
from perturb.tasks.verify.reverify import refusal_faults

# What the images of a shard are compared with; the deep audit reads every column.
_COLUMNS = (
    "record_id", "original_sha256", "perturbed_sha256", "body_sha256", "height", "width", "outcome",
    "original_shard", "original_offset", "original_length", "perturbed_shard", "perturbed_offset", "perturbed_length",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Something that does not hold: `where` is a key, with a record id where one is meant."""

    where: str
    what: str


@dataclass
class Examination:
    """What was found in one round or day."""

    where: str
    records: int = 0
    images: int = 0
    reverified: int = 0
    signed: bool = False
    tasks: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, what: str, *, where: str | None = None) -> None:
        """Note a fault, of the whole part unless `where` says better."""
        self.faults.append(Fault(where or self.where, what))


def examine_round(store: Store, ref: RoundRef, stored: StoredRound, *, glass: Glass, hotkey: str | None) -> Examination:
    """Everything about one committed round."""
    found = Examination(ref.commit_key, records=len(stored.rows), signed=stored.statement.signer is not None)
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
        _check_row(row, found, deep=glass.deep)
        if row["round_id"] != ref.round_id:
            found.fault(f"the row is of round {row['round_id']}", where=_at(found, row))
    folder = keys.round_folder(ref.day, ref.round_id)
    files = [entry.model_copy(update={"key": folder + entry.key}) for entry in stored.statement.files]
    _check_shards_named(stored.rows, files, found)
    if sum(entry.rows for entry in files if entry.kind == "perturbed") != stored.statement.images:
        found.fault(f"{stored.statement.images} images are stated, the shards state another number")
    for entry in files:
        rows = [row for row in stored.rows if row[f"{entry.kind}_shard"] == entry.key]
        _examine_shard(store, entry, rows, glass, found)
    return found


def examine_day(store: Store, manifest: Manifest, where: str, *, glass: Glass, hotkey: str | None) -> Examination:
    """Everything about one sealed day."""
    found = Examination(where, signed=manifest.signer is not None)
    if fault := manifest.signature_fault():
        found.fault(fault)
    _check_signer(manifest, set(manifest.validators), hotkey, found)
    for entry in manifest.file("metadata"):
        if glass.reads_all and (what := file_faults(store, entry)):
            found.fault(what, where=entry.key)
    totals = DayTotals()
    shards = {entry.key for entry in manifest.files}
    try:
        for rows in _day_rows(store, manifest):
            _count_rows(rows, totals, shards, found, deep=glass.deep)
    except (CorpusError, ObjectCorrupt, ObjectMissing) as error:
        found.fault(str(error))
        return found
    _compare(manifest, totals, found)
    for entry in manifest.files:
        if entry.kind != "metadata":
            _examine_shard(store, entry, _shard_rows(store, manifest, entry, glass), glass, found)
    return found


def _day_rows(store: Store, manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    filesystem = open_filesystem(store)
    for entry in manifest.file("metadata"):
        if store.head(entry.key) is None:
            raise ObjectMissing(f"{entry.key} is missing")
        with filesystem.open_input_file(entry.key) as source:
            table = open_table(source, entry.key)
            if table.metadata.num_rows != entry.rows:
                raise CorpusError(f"{entry.key} has {table.metadata.num_rows} rows, the manifest states {entry.rows}")
            yield from read_rows(table, entry.key)


def _shard_rows(store: Store, manifest: Manifest, entry: FileEntry, glass: Glass) -> list[dict[str, Any]]:
    """The rows that point into one shard, with the columns that are needed."""
    import pyarrow.dataset as ds

    paths = [metadata.key for metadata in manifest.file("metadata")]
    dataset = ds.dataset(paths, format="parquet", filesystem=open_filesystem(store))
    columns = None if glass.deep else list(_COLUMNS)
    rows: list[dict[str, Any]] = dataset.to_table(
        columns=columns, filter=ds.field(f"{entry.kind}_shard") == entry.key
    ).to_pylist()
    return rows


def _count_rows(
    rows: list[dict[str, Any]], totals: DayTotals, shards: set[str], found: Examination, *, deep: bool
) -> None:
    if [row for row in rows if not _is_record(row, found)]:
        raise CorpusError("rows that are no records cannot be looked into further")
    for row in rows:
        _check_row(row, found, deep=deep)
        if row["record_id"] in totals.leaves:
            found.fault("the record id stands twice", where=_at(found, row))
        totals.leaves[row["record_id"]] = leaf_hash(row)
        if not {row["original_shard"], row["perturbed_shard"]} - {None} <= shards:
            found.fault("it points to a shard that is not of this day", where=_at(found, row))
    found.records += len(rows)
    totals.count(rows)
    totals.summarise(rows_table(rows))


def _compare(manifest: Manifest, totals: DayTotals, found: Examination) -> None:
    """The manifest's figures against those of the rows."""
    if totals.merkle_root != manifest.merkle_root:
        found.fault("the rows are not those that were sealed: their Merkle root differs from the manifest's")
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
            found.fault(f"the manifest states {name} {stated}, the rows say {counted}")
    counted_statistics = totals.statistics()
    for column, numbers in manifest.statistics.items():
        again = counted_statistics.get(column)
        if again is None or not all(
            math.isclose(getattr(numbers, part), getattr(again, part), rel_tol=1e-9, abs_tol=1e-12)
            for part in ("count", "min", "mean", "max")
        ):
            found.fault(f"the manifest's statistics of {column} are not those of the rows")


def _check_signer(
    statement: RoundStatement | Manifest, validators: set[str], hotkey: str | None, found: Examination
) -> None:
    if hotkey is not None and statement.signer != hotkey:
        found.fault(f"it is signed by {statement.signer or 'nobody'}, not by {hotkey}")
    elif statement.signer is not None and statement.signer not in validators:
        found.fault(f"it is signed by {statement.signer}, its records name {', '.join(sorted(validators))}")


def _is_record(row: Mapping[str, Any], found: Examination) -> bool:
    """Whether the row has what every record has; columns that an older version did not know count as null."""
    try:
        Record.model_validate({**dict.fromkeys(Record.model_fields), **row})
    except ValidationError as error:
        first = error.errors()[0]
        found.fault(f"column {first['loc'][0]} is {first['input']!r}: {first['msg']}", where=_at(found, row))
        return False
    return True


def _check_row(row: Mapping[str, Any], found: Examination, *, deep: bool) -> None:
    """What a row must say to be consistent with itself; `deep` computes again what a refused one says."""
    found.tasks.add(row["task_id"])
    derived = record_id(row["task_id"], row["miner_hotkey"], row["perturbed_sha256"] or row["body_sha256"])
    if row["record_id"] != derived:
        found.fault("the record id does not follow from task, miner and answer", where=_at(found, row))
    accepted = row["outcome"] == Outcome.ACCEPTED
    if accepted != (row["perturbed_shard"] is not None):
        state = "accepted without an image" if accepted else f"{row['outcome']}, yet it has an image"
        found.fault(f"the record is {state}", where=_at(found, row))
    paid_in_its_round = row["outcome"] == Outcome.DUPLICATE and row["margin"] is not None
    if not accepted and row["score"] != 0 and not paid_in_its_round:
        found.fault(f"the record is {row['outcome']}, yet it has a score of {row['score']:g}", where=_at(found, row))
    elif not accepted and deep:
        for what in refusal_faults({**dict.fromkeys(Record.model_fields), **row}):
            found.fault(what, where=_at(found, row))
    if accepted and found.signed and row["miner_signature"] is None:
        found.fault("the record is accepted without its miner's signature", where=_at(found, row))
    if fault := check_signature(row):
        found.fault(fault, where=_at(found, row))


def _check_shards_named(rows: Sequence[Mapping[str, Any]], files: Sequence[FileEntry], found: Examination) -> None:
    stored = {entry.key for entry in files} | {None}
    for row in rows:
        if row["original_shard"] not in stored or row["perturbed_shard"] not in stored:
            found.fault("it points to a shard that is not of this round", where=_at(found, row))


def _examine_shard(
    store: Store, entry: FileEntry, rows: Sequence[Mapping[str, Any]], glass: Glass, found: Examination
) -> None:
    try:
        members = pointed_members(rows, entry.key, entry.kind)
    except ValueError as error:
        found.fault(str(error), where=entry.key)
        return
    for what in check_members(members, entry):
        found.fault(what, where=entry.key)
    by_name: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        by_name.setdefault(_name(entry, row), row)
    pairs: list[tuple[Member, Mapping[str, Any]]] = [(members[name], by_name[name]) for name in members]
    looked = glass.examine(store, entry, sorted(pairs, key=lambda pair: pair[0].offset))
    found.images += looked.images
    found.reverified += looked.reverified
    for where, what in looked.faults:
        found.fault(what, where=where)


def _name(entry: FileEntry, row: Mapping[str, Any]) -> str:
    return (
        keys.original_name(row["original_sha256"])
        if entry.kind == "original"
        else keys.perturbed_name(row["record_id"])
    )


def _at(found: Examination, row: Mapping[str, Any]) -> str:
    return f"{found.where} record {row['record_id']}"
