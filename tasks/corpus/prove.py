"""Proof that one record belongs to a sealed day, checkable without the corpus."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Hex64, Manifest
from perturb.sinks.formats.merkle import canonical_json, canonical_record, inclusion_path, leaf_hash, root_from_path
from perturb.sinks.formats.parquet import open_table, read_rows
from perturb.sinks.formats.version import FORMAT, check_format
from perturb.sinks.stores.arrow import open_filesystem


class Proof(BaseModel):
    """A record and its path to the Merkle root of its day (RFC 6962, section 2.1.1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    kind: Literal["inclusion-proof"] = "inclusion-proof"
    day: date
    record: dict[str, Any]
    index: int = Field(ge=0)
    size: int = Field(ge=1)
    path: tuple[Annotated[str, Hex64], ...]
    merkle_root: str = Hex64

    @property
    def record_id(self) -> str:
        """Id of the proven record."""
        return str(self.record.get("record_id"))

    def to_json(self) -> bytes:
        """The proof as a file."""
        return json.dumps(json.loads(canonical_json(self.model_dump(mode="json"))), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class ProofReport:
    """What a proof shows. `against` says what its root was compared with."""

    record_id: str
    day: date
    merkle_root: str
    against: tuple[str, ...]
    faults: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether the record is proven."""
        return not self.faults


def prove(corpus: Corpus, record_id: str) -> Proof:
    """The inclusion proof of a sealed record. Raises CorpusError if no sealed day has it."""
    if not re.fullmatch(r"[0-9a-f]{32}", record_id):
        raise CorpusError(f"{record_id!r} is no record id; it has 32 hex digits, as in the record_id column")
    for manifest in reversed(corpus.manifests()):
        if _holds(corpus, manifest, record_id):
            return _prove_in(corpus, manifest, record_id)
    raise CorpusError(
        f"record {record_id} is in no sealed day; seal its day first, or check the id (an export's sample_id is none)"
    )


def _holds(corpus: Corpus, manifest: Manifest, record_id: str) -> bool:
    import pyarrow.dataset as ds

    return bool(corpus.metadata(manifest).count_rows(filter=ds.field("record_id") == record_id))


def _rows(corpus: Corpus, manifest: Manifest) -> Iterator[dict[str, Any]]:
    for entry in manifest.file("metadata"):
        with open_filesystem(corpus.store).open_input_file(entry.key) as source:
            for batch in read_rows(open_table(source, entry.key), entry.key):
                yield from batch


def _prove_in(corpus: Corpus, manifest: Manifest, record_id: str) -> Proof:
    leaves, wanted = {}, {}
    for row in _rows(corpus, manifest):
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
    """A proof from its file. Raises CorpusError if it is none or of a newer format."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where} is not JSON; a proof is made by `perturb prove RECORD_ID`") from error
    check_format(fields.get("format") if isinstance(fields, dict) else None, where)
    try:
        return Proof.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise CorpusError(f"{where}: field {first['loc'][0]} is {first['input']!r}: {first['msg']}") from error


def check_proof(
    proof: Proof, *, manifest: Manifest | None = None, root: str | None = None, hotkey: str | None = None
) -> ProofReport:
    """Check a proof offline: its path must lead to its root, and its root must be that of something trusted.

    Trusted is a `manifest` (its signature is checked, with `hotkey` also whose it is) or a `root` read from the
    chain (64 hex digits). With neither, only the path is checked, and `against` is empty.
    """
    faults, against = [], []
    # A record went through JSON; a float that was written as 1.0 came back as a float, so its leaf is the same.
    led_to = root_from_path(leaf_hash(proof.record), proof.index, proof.size, proof.path)
    if led_to != proof.merkle_root:
        faults.append("the record and its path do not lead to the stated root")
    if manifest is not None:
        against.append(f"manifest of {manifest.day}, signed by {manifest.signer or 'nobody'}")
        faults += _manifest_faults(proof, manifest, hotkey)
    if root is not None:
        against.append("the given root")
        if root.removeprefix("sha256:").removeprefix("0x").lower() != proof.merkle_root:
            faults.append(
                f"the proof leads to root {proof.merkle_root}, not to {root}; a validator's commitment is its newest "
                "day's: for an older one compare with that day's manifest"
            )
    return ProofReport(proof.record_id, proof.day, proof.merkle_root, tuple(against), tuple(faults))


def _manifest_faults(proof: Proof, manifest: Manifest, hotkey: str | None) -> list[str]:
    faults = []
    if fault := manifest.signature_fault():
        faults.append(f"the manifest does not hold: {fault}")
    if hotkey is not None and manifest.signer != hotkey:
        faults.append(f"the manifest is signed by {manifest.signer or 'nobody'}, not by {hotkey}")
    if (manifest.day, manifest.merkle_root, manifest.records) != (proof.day, proof.merkle_root, proof.size):
        faults.append(f"the manifest of {manifest.day} has root {manifest.merkle_root}, which the proof does not reach")
    return faults
