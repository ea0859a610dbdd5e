"""The signed statements of rounds and sealed days: their files, counts and Merkle root."""

import hashlib
from datetime import date, datetime
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from perturb.sinks.formats.canonical_json import canonical_json
from perturb.sinks.formats.version import parse_document

Kind = Literal["original", "perturbed", "metadata"]
_SIGNING_TAG = b"perturb-corpus-1\n"
Hex64 = Field(pattern=r"^[0-9a-f]{64}$")


class Signer(Protocol):
    """A hotkey that can sign, such as bittensor's Keypair."""

    @property
    def ss58_address(self) -> str:
        """The public ss58 address."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Return the sr25519 signature over `data`, 64 bytes."""
        ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file of a round or sealed day. `rows` counts the members of a tar or the rows of a table.

    A round's perturbed tar has no digest: the rows determine each of its bytes, their `body_sha256` is under the Merkle
    root, and hashing each image twice would be half of a commit's work.
    """

    key: str
    kind: Kind
    size: int = Field(ge=0)
    sha256: str | None = Hex64
    rows: int = Field(ge=0)


class ModelEntry(_Part):
    """A classifier or judge that records of the day refer to."""

    name: str
    sha256: str | None


class Claim(_Part):
    """A round that a sealed day took in: its partition, its ID, and the digest of its commit object."""

    date: date
    round_id: str
    commit_sha256: str = Hex64
    merkle_root: str = Hex64
    records: int = Field(ge=0)


class Numbers(_Part):
    """Summary of one numeric column over the rows in which it is not null."""

    count: int
    min: float
    mean: float
    max: float


class Reverified(_Part):
    """The share and the number of records that were verified again from their bytes while sealing."""

    fraction: float
    records: int


class _Statement(_Part):
    """The fields that rounds and sealed days share. `signature` covers all other fields."""

    format: int
    records: int = Field(ge=0)
    images: int = Field(ge=0, description="perturbed images")
    merkle_root: str = Hex64
    files: tuple[FileEntry, ...]
    signer: str | None = None
    signature: str | None = None

    def payload(self) -> bytes:
        """Return the signed bytes: a tag and the canonical JSON of all fields except the signature."""
        return _SIGNING_TAG + canonical_json(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, signer: Signer | None) -> Self:
        """Return the same statement with a signature, or unchanged without a signer."""
        if signer is None:
            return self
        named = self.model_copy(update={"signer": signer.ss58_address})
        return named.model_copy(update={"signature": bytes(signer.sign(named.payload())).hex()})

    def signature_fault(self) -> str | None:
        """Return what is wrong with the signature; None when it is valid and when there is no signature."""
        if self.signer is None and self.signature is None:
            return None
        if self.signer is None or self.signature is None:
            return "it has a signer without a signature, or a signature without a signer"
        valid = _verifies(self.signer, self.payload(), self.signature)
        return None if valid else f"the signature is not {self.signer}'s"

    def to_json(self) -> bytes:
        """Return the canonical JSON of the whole statement."""
        return canonical_json(self.model_dump(mode="json"))

    def file(self, kind: Kind) -> list[FileEntry]:
        """Return the files of one kind."""
        return [entry for entry in self.files if entry.kind == kind]


class RoundStatement(_Statement):
    """The statement in the schema metadata of a round's `metadata.parquet`. Its files are the round's tars.

    File keys are relative to the round's folder.
    """

    kind: Literal["round"] = "round"
    round_id: str


class Manifest(_Statement):
    """The statement of a sealed day. File keys are relative to the root of the corpus.

    `sequence` and `previous` (sha256 of the manifest that was sealed before) chain the days, so that a removed day is
    noticed.
    """

    kind: Literal["sealed-day"] = "sealed-day"
    day: date
    sequence: int = Field(ge=0)
    previous: str | None
    sealed_at: datetime
    attempt: str = Field(description="folder of the files; each try to seal has its own")
    originals: int = Field(ge=0, description="clean images")
    duplicates: int = Field(ge=0, description="accepted rows that became `duplicate`, as the day had their pixels")
    outcomes: dict[str, int]
    statistics: dict[str, Numbers]
    classifiers: tuple[ModelEntry, ...]
    judges: tuple[ModelEntry, ...]
    policies: tuple[str, ...]
    validators: tuple[str, ...]
    rounds: tuple[Claim, ...]
    reverified: Reverified

    @model_validator(mode="after")
    def _state_digests(self) -> Self:
        if any(entry.sha256 is None for entry in self.files):
            raise ValueError("a file has no sha256")
        return self

    @property
    def sha256(self) -> str:
        """sha256 of the manifest's own bytes."""
        return hashlib.sha256(self.to_json()).hexdigest()


def _verifies(address: str, payload: bytes, signature: str) -> bool:
    from bittensor.keyfiles import Keypair

    try:
        return bool(Keypair(ss58_address=address).verify(payload, bytes.fromhex(signature)))
    except (ValueError, TypeError):
        # An address or signature that cannot be parsed is not valid.
        return False


def parse_round(data: bytes, where: str) -> RoundStatement:
    """Return the statement of a round from its JSON. Raises CorpusError as `parse_document` does."""
    return parse_document(RoundStatement, data, where)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest of a sealed day from its JSON. Raises CorpusError as `parse_document` does."""
    return parse_document(Manifest, data, where)
