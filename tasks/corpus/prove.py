"""Proofs that a record belongs to a sealed day, which can be checked without the corpus."""

import json
import re
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import Row
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Hex64, Manifest
from perturb.sinks.formats.canonical_json import canonical_json
from perturb.sinks.formats.merkle import canonical_record, inclusion_path, leaf_hash, root_from_path
from perturb.sinks.formats.version import FORMAT, parse_document


class Proof(BaseModel):
    """A record and its path to the Merkle root of its day (RFC 6962, section 2.1.1).

    `index` is the record's place among the `size` records of the day in the order of their IDs. `path` holds the
    sibling hashes from leaf to root.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    kind: Literal["inclusion-proof"] = "inclusion-proof"
    day: date
    record: Row
    index: int = Field(ge=0)
    size: int = Field(ge=1)
    path: tuple[Annotated[str, Hex64], ...]
    merkle_root: str = Hex64

    @property
    def record_id(self) -> str:
        """The ID of the proven record."""
        return str(self.record.get("record_id"))

    def to_json(self) -> bytes:
        """Return the proof as the bytes of a file."""
        return json.dumps(json.loads(canonical_json(self.model_dump(mode="json"))), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class ProofReport:
    """The result of checking a proof. `against` lists what its root was compared with."""

    record_id: str
    day: date
    merkle_root: str
    against: tuple[str, ...]
    faults: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether the proof is valid."""
        return not self.faults


def prove(corpus: Corpus, record_id: str) -> Proof:
    """Return the inclusion proof of a sealed record. Raises CorpusError when no sealed day has it."""
    if not re.fullmatch(r"[0-9a-f]{32}", record_id):
        raise CorpusError(f"{record_id!r} is not a record ID; accepted: 32 hex digits, as in the record_id column")
    for manifest in reversed(corpus.manifests()):
        if _holds(corpus, manifest, record_id):
            return _prove_in(corpus, manifest, record_id)
    raise CorpusError(
        f"record {record_id} is not in a sealed day; seal its day first, or check the ID (a sample_id is not one)"
    )


def _holds(corpus: Corpus, manifest: Manifest, record_id: str) -> bool:
    import pyarrow.dataset as ds

    return bool(corpus.metadata(manifest).count_rows(filter=ds.field("record_id") == record_id))


def _prove_in(corpus: Corpus, manifest: Manifest, record_id: str) -> Proof:
    leaves: dict[str, bytes] = {}
    wanted: Row = {}
    for batch in corpus.rows(manifest):
        for row in batch:
            leaves[row["record_id"]] = leaf_hash(row)
            if row["record_id"] == record_id:
                wanted = json.loads(canonical_json(canonical_record(row)))
    ids = sorted(leaves)
    index = ids.index(record_id)
    proof = Proof(
        format=FORMAT,
        day=manifest.day,
        record=wanted,
        index=index,
        size=len(ids),
        path=tuple(inclusion_path([leaves[one] for one in ids], index)),
        merkle_root=manifest.merkle_root,
    )
    if faults := check_proof(proof, manifest=manifest).faults:
        raise CorpusError(f"record {record_id} cannot be proven: {faults[0]}; run `perturb audit --day {manifest.day}`")
    return proof


def parse_proof(data: bytes, where: str) -> Proof:
    """Return a proof from the bytes of its file. Raises CorpusError as `parse_document` does."""
    return parse_document(Proof, data, where, hint="a proof is made by `perturb prove RECORD_ID`")


def check_proof(
    proof: Proof, *, manifest: Manifest | None = None, root: str | None = None, hotkey: str | None = None
) -> ProofReport:
    """Check a proof offline: its path must lead to its root, and its root must be one that the caller trusts.

    That is the root of a `manifest`, whose signature is checked (with `hotkey` it must be that validator's), or a
    `root` that was read from the chain (64 hex digits). Without both, only the path is checked and `against` is empty.
    """
    faults, against = [], []
    # The record went through JSON, where a float written as 1.0 is read as a float, so that its leaf is the same.
    led_to = root_from_path(leaf_hash(proof.record), proof.index, proof.size, proof.path)
    if led_to != proof.merkle_root:
        faults.append("the record and its path do not lead to the stated root")
    if manifest is not None:
        signed = f"signed by {manifest.signer}" if manifest.signer else "without a signature"
        against.append(f"manifest of {manifest.day}, {signed}")
        faults += _manifest_faults(proof, manifest, hotkey)
    if root is not None:
        against.append("the given root")
        if root.removeprefix("sha256:").removeprefix("0x").lower() != proof.merkle_root:
            faults.append(
                f"the proof leads to root {proof.merkle_root}, not to {root}; the chain has the root of a validator's "
                "newest day only, so compare a record of an older day with that day's manifest"
            )
    return ProofReport(proof.record_id, proof.day, proof.merkle_root, tuple(against), tuple(faults))


def _manifest_faults(proof: Proof, manifest: Manifest, hotkey: str | None) -> list[str]:
    faults = []
    if fault := manifest.signature_fault():
        faults.append(f"the manifest is not valid: {fault}")
    if hotkey is not None and manifest.signer != hotkey:
        faults.append(f"the manifest is signed by {manifest.signer or 'no one'}, not by {hotkey}")
    if (manifest.day, manifest.merkle_root, manifest.records) != (proof.day, proof.merkle_root, proof.size):
        faults.append(f"the proof does not lead to root {manifest.merkle_root}, that of the manifest of {manifest.day}")
    return faults
