"""The signed statements of rounds and sealed days: their files, counts and Merkle root."""

import hashlib
from datetime import date, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.signature import Signer, is_signature_of
from perturb.schemas.trust import Trust
from perturb.sinks.formats.fields import Hex64, StoreKey
from perturb.sinks.formats.version import Document, parse_document

Kind = Literal["original", "perturbed", "metadata", "claims", "models", "statistics", "miners"]
_SIGNING_TAG = b"perturb-corpus-1\n"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Part):
    """One file of a round or sealed day. `rows` counts the members of a tar or the rows of a table.

    A round's perturbed tar has no digest: the rows determine each of its bytes, their `body_sha256` is under the Merkle
    root, and hashing each image twice would be half of a commit's work.
    """

    key: StoreKey
    kind: Kind
    size: int = Field(ge=0)
    sha256: str | None = Hex64
    rows: int = Field(ge=0)


class RoundName(_Part):
    """A round that a sealed day took in: its partition and its ID."""

    date: date
    round_id: StoreKey


class Reverified(_Part):
    """The share and the number of records that were verified again from their bytes while sealing."""

    fraction: float
    records: int


class _Statement(Document):
    """The fields that rounds and sealed days share. `signature` covers all other fields."""

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
        valid = is_signature_of(self.signature, self.payload(), self.signer)
        return None if valid else f"the signature is not {self.signer}'s"

    def refusal(self, trust: Trust) -> str | None:
        """Return why the statement does not count under `trust`: its signature is invalid, missing or a stranger's."""
        return self.signature_fault() or trust.signer_fault(self.signer)

    def file(self, kind: Kind) -> list[FileEntry]:
        """Return the files of one kind."""
        return [entry for entry in self.files if entry.kind == kind]


class RoundStatement(_Statement):
    """The statement in the schema metadata of a round's `metadata.parquet`. Its files are the round's tars.

    File keys are relative to the round's folder.
    """

    kind: Literal["round"] = "round"
    round_id: StoreKey


class Manifest(_Statement):
    """The statement of a sealed day, which an entry of the log names. File keys are relative to the corpus' root.

    Its size does not depend on the number of rounds: what it took in, the models that its rows name, statistics and
    the state of miners are in tables among its files (`perturb.sinks.corpus.day_tables`). The `validators` of its rows
    stand here, because trust is decided before any file is read. `previous_day` is the day that was sealed before.
    """

    kind: Literal["sealed-day"] = "sealed-day"
    day: date
    sealed_at: datetime
    attempt: StoreKey = Field(description="folder of the files; each try to seal has its own")
    originals: int = Field(ge=0, description="clean images")
    duplicates: int = Field(ge=0, description="accepted rows that became `duplicate`, as the day had their pixels")
    outcomes: dict[str, int]
    validators: tuple[str, ...]
    rounds: int = Field(ge=0)
    first_round: RoundName | None
    last_round: RoundName | None
    previous_day: date | None
    reverified: Reverified

    @property
    def size(self) -> int:
        """Bytes of the day's files together."""
        return sum(entry.size for entry in self.files)

    @model_validator(mode="after")
    def _state_digests(self) -> Self:
        if any(entry.sha256 is None for entry in self.files):
            raise ValueError("a file has no sha256")
        return self

    def refusal(self, trust: Trust) -> str | None:
        """Return why the day does not count under `trust`; all validators of its records must be trusted too.

        What nobody signed is accepted as a whole where `trust` allows that.
        """
        fault = super().refusal(trust)
        return fault if fault or self.signer is None else trust.validators_fault(self.validators)

    @property
    def sha256(self) -> str:
        """sha256 of the manifest's own bytes."""
        return hashlib.sha256(self.to_json()).hexdigest()


def parse_round(data: bytes, where: str) -> RoundStatement:
    """Return the statement of a round from its JSON. Raises CorpusError as `parse_document` does."""
    return parse_document(RoundStatement, data, where)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Return the manifest of a sealed day from its JSON. Raises CorpusError as `parse_document` does."""
    return parse_document(Manifest, data, where)
