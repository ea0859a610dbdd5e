"""What a round and a sealed day say about themselves: signed statements of files, counts and the Merkle root."""

import hashlib
import json
from datetime import date, datetime
from typing import Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from perturb.schemas.errors import CorpusError
from perturb.sinks.formats.merkle import canonical_json
from perturb.sinks.formats.version import check_format

Kind = Literal["original", "perturbed", "metadata"]
_SIGNING_TAG = b"perturb-corpus-1\n"
Hex64 = Field(pattern=r"^[0-9a-f]{64}$")


class Signer(Protocol):
    """A hotkey that can sign: bittensor's Keypair is one."""

    @property
    def ss58_address(self) -> str:
        """Public address."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """sr25519 signature, 64 bytes."""
        ...


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file of a round or sealed day. `rows` counts members of a tar or rows of a table.

    A round's perturbed tar states no digest: its every byte follows from the rows, whose `body_sha256` the Merkle
    root covers, and hashing each image twice would be half of a commit's work.
    """

    key: str
    kind: Kind
    size: int = Field(ge=0)
    sha256: str | None = Hex64
    rows: int = Field(ge=0)


class ModelEntry(_Part):
    """A classifier or judge that records of the day name."""

    name: str
    sha256: str | None


class Claim(_Part):
    """A round that a sealed day took in: its partition, id, and what its commit object was."""

    date: date
    round_id: str
    commit_sha256: str = Hex64
    merkle_root: str = Hex64
    records: int = Field(ge=0)


class Numbers(_Part):
    """Summary of one numeric column over the rows where it is not null."""

    count: int
    min: float
    mean: float
    max: float


class Reverified(_Part):
    """How many records were verified again from their bytes while sealing."""

    fraction: float
    records: int


class _Statement(_Part):
    """Common to rounds and sealed days; `signature` covers everything else."""

    format: int
    records: int = Field(ge=0)
    images: int = Field(ge=0, description="perturbed images")
    merkle_root: str = Hex64
    files: tuple[FileEntry, ...]
    signer: str | None = None
    signature: str | None = None

    def payload(self) -> bytes:
        """The signed bytes: a tag and the canonical JSON of every field but the signature."""
        return _SIGNING_TAG + canonical_json(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, signer: Signer | None) -> Self:
        """The same statement under a signature; unchanged without a signer."""
        if signer is None:
            return self
        named = self.model_copy(update={"signer": signer.ss58_address})
        return named.model_copy(update={"signature": bytes(signer.sign(named.payload())).hex()})

    def signature_fault(self) -> str | None:
        """What is wrong with the signature; None if it holds or if there is none at all."""
        if self.signer is None and self.signature is None:
            return None
        if self.signer is None or self.signature is None:
            return "a signer without a signature, or a signature without a signer"
        return (
            None if _verifies(self.signer, self.payload(), self.signature) else f"the signature is not {self.signer}'s"
        )

    def to_json(self) -> bytes:
        """Canonical JSON of the whole statement."""
        return canonical_json(self.model_dump(mode="json"))

    def file(self, kind: Kind) -> list[FileEntry]:
        """The files of one kind."""
        return [entry for entry in self.files if entry.kind == kind]


_S = TypeVar("_S", bound=_Statement)


class RoundStatement(_Statement):
    """Stands in the schema metadata of a round's `metadata.parquet`; its files are the round's tars.

    File keys are relative to the round's folder.
    """

    kind: Literal["round"] = "round"
    round_id: str


class Manifest(_Statement):
    """A sealed day. File keys are relative to the corpus root.

    `sequence` and `previous` (sha256 of the manifest sealed before) chain the days, so that none can be taken out.
    """

    kind: Literal["sealed-day"] = "sealed-day"
    day: date
    sequence: int = Field(ge=0)
    previous: str | None
    sealed_at: datetime
    attempt: str = Field(description="folder of the files; each try to seal has its own")
    originals: int = Field(ge=0, description="clean images")
    duplicates: int = Field(ge=0, description="accepted rows whose pixels the day had already; now `duplicate`")
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
            raise ValueError("a file without a digest")
        return self

    @property
    def sha256(self) -> str:
        """Digest of the manifest's own bytes."""
        return hashlib.sha256(self.to_json()).hexdigest()


def _verifies(address: str, payload: bytes, signature: str) -> bool:
    from bittensor.keyfiles import Keypair

    try:
        return bool(Keypair(ss58_address=address).verify(payload, bytes.fromhex(signature)))
    except (ValueError, TypeError):
        # An address or signature that cannot even be parsed signs nothing.
        return False


def parse_round(data: bytes, where: str) -> RoundStatement:
    """The statement of a round. Raises CorpusError if it is none or of a newer format."""
    return _parse(RoundStatement, data, where)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The manifest of a sealed day. Raises CorpusError if it is none or of a newer format."""
    return _parse(Manifest, data, where)


def _parse(model: type[_S], data: bytes, where: str) -> _S:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where} is not JSON; restore it from a copy") from error
    check_format(fields.get("format") if isinstance(fields, dict) else None, where)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "files"
        raise CorpusError(f"{where}: field {name}: {first['msg']}") from error
