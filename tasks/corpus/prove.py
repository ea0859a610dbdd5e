"""Proofs that a record belongs to the corpus, which can be checked without it and without trusting who made them.

A record is proven in three steps: its leaf lies in the Merkle tree of its day, the day's root stands in an entry of the
log, and the entry lies in the tree of the log, whose signed head has the root that goes on chain.
"""

import json
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import POINTERS, Row, record_day
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import entry_day, logged_manifest, sealed_record
from perturb.sinks.formats.fields import Hex64
from perturb.sinks.formats.merkle import canonical_record, inclusion_path, leaf_hash, root_from_path
from perturb.sinks.formats.version import FORMAT, Document, parse_document
from perturb.sinks.log.entry import Entry, Head, LogRecord
from perturb.sinks.log.log import Log
from perturb.tasks.corpus.consistency import ConsistencyProof, plain_root


class Proof(Document):
    """A record, its path to the root of its day, the day's entry in the log, and that entry's path to a signed head.

    `index` is the record's place among the `size` records of the day in the order of their IDs. `path` and `log_path`
    hold sibling hashes from leaf to root (RFC 9162, section 2.1.3).
    """

    kind: Literal["record-proof"] = "record-proof"
    record: Row
    index: int = Field(ge=0)
    size: int = Field(ge=1)
    path: tuple[Annotated[str, Hex64], ...]
    entry: Entry
    log_path: tuple[Annotated[str, Hex64], ...]
    head: Head

    @property
    def record_id(self) -> str:
        """The ID of the proven record."""
        return str(self.record.get("record_id"))

    @field_validator("record")
    @classmethod
    def _proven_columns_only(cls, record: Row) -> Row:
        if unproven := sorted(record.keys() & set(POINTERS)):
            raise ValueError(f"{', '.join(unproven)} say where an image is stored, which no proof covers; remove them")
        return record

    @field_validator("entry")
    @classmethod
    def _seals_a_day(cls, entry: Entry, info: ValidationInfo) -> Entry:
        if entry.kind != "sealed-day":
            raise ValueError(f"it is the entry of a {entry.kind}; accepted: that of a sealed-day")
        try:
            entry_day(entry)
        except CorpusError as error:
            raise ValueError(str(error)) from error
        return entry


@dataclass(frozen=True)
class ProofReport:
    """The result of checking a proof. `against` lists what its root was compared with: without any, nothing is proven.

    `signer` is that of the head.
    """

    record_id: str
    day: date
    root: str
    entries: int
    signer: str | None
    against: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the proof is valid and leads to something that the caller trusts."""
        return not self.faults and bool(self.against)


def prove(corpus: Corpus, record_id: str, *, trust: Trust = ANYONE, entries: int | None = None) -> Proof:
    """Return the proof of a record in a sealed day, against the log's newest head, or that over its first `entries`.

    The log and the day must be signed by validators of `trust`. Raises CorpusError when no such day has the record.
    """
    first = record_day(record_id)
    if first is None:
        raise CorpusError(
            f"{record_id!r} is not a record ID; accepted: its day and 24 hex digits, as in the record_id column"
        )
    log = Log(corpus.store, trust=trust)
    newest = log.newest() if entries is None else log.record(entries - 1)
    found = _sealed_with(corpus, log, newest, record_id)
    if newest is None or found is None:
        among = "" if entries is None else f" among the first {entries} entries of the log"
        raise CorpusError(
            f"record {record_id} is not in a sealed day from {first} on{among}; seal its day first, or check the ID (a "
            "sample_id is not one)"
        )
    sealed, manifest = found
    if refusal := manifest.refusal(trust):
        raise CorpusError(f"record {record_id} is in {manifest.day}, which does not count: {refusal}")
    proof = _prove_in(corpus, log, newest, sealed, manifest, record_id)
    if faults := check_proof(proof, trust=trust).faults:
        raise CorpusError(f"record {record_id} cannot be proven: {faults[0]}; run `perturb audit --day {manifest.day}`")
    return proof


def _sealed_with(
    corpus: Corpus, log: Log, newest: LogRecord | None, record_id: str
) -> tuple[LogRecord, Manifest] | None:
    """Return the sealed day that has a record: that of its ID, or one that took it in late."""
    last = log.newest_before(newest, "sealed-day")
    if last is None:
        return None
    for day in corpus.days_of(record_id):
        sealed = sealed_record(log, last, day.day)
        if sealed is not None and _holds(corpus, manifest := logged_manifest(corpus.store, sealed), record_id):
            return sealed, manifest
    return None


def _holds(corpus: Corpus, manifest: Manifest, record_id: str) -> bool:
    import pyarrow.dataset as ds

    return bool(corpus.metadata(manifest).count_rows(filter=ds.field("record_id") == record_id))


def _prove_in(
    corpus: Corpus, log: Log, newest: LogRecord, sealed: LogRecord, manifest: Manifest, record_id: str
) -> Proof:
    import pyarrow.dataset as ds

    from perturb.sinks.formats.leaves import leaves_by_id

    leaves: dict[str, bytes] = {}
    wanted: Row = {}
    for table in corpus.tables(manifest):
        leaves |= leaves_by_id(table, table.to_pylist)
        for row in table.filter(ds.field("record_id") == record_id).to_pylist():
            wanted = json.loads(canonical_json(canonical_record(row)))
    ids = sorted(leaves)
    index = ids.index(record_id)
    return Proof(
        format=FORMAT,
        record=wanted,
        index=index,
        size=len(ids),
        path=tuple(inclusion_path([leaves[one] for one in ids], index)),
        entry=sealed.entry,
        log_path=tuple(inclusion_path(log.leaves(newest), sealed.entry.sequence)),
        head=newest.head,
    )


def parse_proof(data: bytes, where: str) -> Proof:
    """Return a proof from the bytes of its file. Raises CorpusError as `parse_document` does."""
    return parse_document(Proof, data, where, hint="a proof is made by `perturb prove RECORD_ID`")


def check_proof(
    proof: Proof,
    *,
    trust: Trust = ANYONE,
    root: str | None = None,
    head: Head | None = None,
    consistency: ConsistencyProof | None = None,
) -> ProofReport:
    """Check a proof offline: it must lead to a head that a validator of `trust` signed, or to a given `root`.

    `root` is the log's root from the chain or another place that the caller trusts (64 hex digits), `head` another
    signed head. Where they are those of a longer log, `consistency` must show that it begins with the proof's log.
    """
    faults = _path_faults(proof)
    against: list[str] = []
    reached = {proof.head.size: proof.head.root}
    if consistency is not None:
        faults += consistency.faults(trust)
        if consistency.old.size != proof.head.size or consistency.old.root != proof.head.root:
            faults.append(
                f"the consistency proof begins with {consistency.old.size} entries, the proof has {proof.head.size}"
            )
        reached[consistency.new.size] = consistency.new.root
    refusal = proof.head.refusal(trust)
    if refusal is None and trust.hotkeys is not None:
        against.append(f"the head over {proof.head.size} entries, signed by {proof.head.signer or 'no one'}")
    elif refusal is not None and root is None and head is None:
        faults.append(f"the head does not count: {refusal}")
    if head is not None:
        if refusal := head.refusal(trust):
            faults.append(f"the given head does not count: {refusal}")
        faults += _reach_faults(reached, head.root, f"the head over {head.size} entries")
        against.append(f"the head over {head.size} entries, signed by {head.signer or 'no one'}")
    if root is not None:
        plain = plain_root(root)
        faults += _reach_faults(reached, plain, f"root {plain}")
        against.append("the given root")
    return ProofReport(
        record_id=proof.record_id,
        day=entry_day(proof.entry),
        root=proof.head.root,
        entries=proof.head.size,
        signer=proof.head.signer,
        against=tuple(against),
        faults=tuple(faults),
    )


def _path_faults(proof: Proof) -> list[str]:
    faults = []
    # The record went through JSON, which keeps the leaf: a number is written the same whichever type it is read as.
    day_root = root_from_path(leaf_hash(proof.record), proof.index, proof.size, proof.path)
    stated = proof.entry.detail
    if (day_root, proof.size) != (stated.get("merkle_root"), stated.get("records")):
        faults.append("the record and its path do not lead to the day's root in the log")
    if root_from_path(proof.entry.leaf, proof.entry.sequence, proof.head.size, proof.log_path) != proof.head.root:
        faults.append("the day's entry and its path do not lead to the root of the head")
    return faults


def _reach_faults(reached: dict[int, str], root: str, name: str) -> list[str]:
    if root in reached.values():
        return []
    sizes = " and ".join(str(size) for size in reached)
    what = f"the proof does not lead to {name}, but to those of the log's first {sizes} entries"
    return [f"{what}; if the log has grown since, `perturb log --consistency` proves it, otherwise it is another log"]
