"""One entry of the log: what happened, and the signed head of the tree that it ends."""

import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.signature import Signer, is_signature_of
from perturb.schemas.trust import Trust
from perturb.sinks.formats.fields import Hex64, StoreKey
from perturb.sinks.formats.version import FORMAT, Document
from perturb.sinks.log.tree import appended, entry_leaf, peaks_of, root_of_peaks

Kind = Literal[
    "sealed-day",
    "plan",
    "certificate",
    "refutation",
    "revocation",
    "promotion",
    "retirement",
    "rollback",
    "model-track",
]
"""What an entry can be about."""

# How many leaves a tile has.
TILE = 256
_HEAD_TAG = b"perturb-log-head-1\n"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Totals(_Part):
    """What the corpus holds, from its first entry to this one."""

    days: int = Field(0, ge=0)
    records: int = Field(0, ge=0)
    images: int = Field(0, ge=0)
    bytes: int = Field(0, ge=0)

    def plus(self, more: "Totals") -> "Totals":
        """Return the sums."""
        return Totals(**{name: value + getattr(more, name) for name, value in self})

    def is_within(self, later: "Totals") -> bool:
        """Return whether none of these is larger than the same of `later`."""
        return all(value <= getattr(later, name) for name, value in self)


class NewEntry(_Part):
    """What is to be appended: a document that lies at `key`, and what readers need without reading it.

    `detail` has what is asked often, such as a sealed day's date. `adds` is what the document adds to the totals.
    """

    kind: Kind
    key: StoreKey
    sha256: str = Hex64
    detail: dict[str, str | int] = {}
    adds: Totals = Totals()


class Entry(_Part):
    """An event in its place. Its Merkle leaf is `sha256(0x00 | canonical JSON)`."""

    sequence: int = Field(ge=0)
    kind: Kind
    key: StoreKey
    sha256: str = Hex64
    detail: dict[str, str | int]
    totals: Totals
    newest: dict[Kind, int] = Field(description="the newest entry of each kind, this one included")
    at: datetime
    signer: str | None

    @property
    def leaf(self) -> bytes:
        """The leaf of the entry, 32 bytes."""
        return entry_leaf(canonical_json(self.model_dump(mode="json")))

    def is_about(self, new: NewEntry) -> bool:
        """Return whether the entry records what `new` would."""
        return (self.kind, self.key, self.sha256) == (new.kind, new.key, new.sha256)


class Head(_Part):
    """The tree over the first `size` entries, as its signer saw it. `signature` covers all other fields.

    The root goes on chain: it proves each entry, and through a sealed day's manifest each record.
    """

    size: int = Field(ge=1)
    root: str = Hex64
    at: datetime
    signer: str | None = None
    signature: str | None = None

    def payload(self) -> bytes:
        """Return the signed bytes: a tag and the canonical JSON of all fields except the signature."""
        return _HEAD_TAG + canonical_json(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, signer: Signer | None) -> Self:
        """Return the head with a signature, or unchanged without a signer."""
        if signer is None:
            return self
        named = self.model_copy(update={"signer": signer.ss58_address})
        return named.model_copy(update={"signature": bytes(signer.sign(named.payload())).hex()})

    def refusal(self, trust: Trust) -> str | None:
        """Return why the head does not count under `trust`: its signature is invalid, missing or a stranger's."""
        if (self.signer is None) != (self.signature is None):
            return "it has a signer without a signature, or a signature without a signer"
        if self.signer is not None and not is_signature_of(self.signature or "", self.payload(), self.signer):
            return f"the signature is not {self.signer}'s"
        return trust.signer_fault(self.signer)


class LogRecord(Document):
    """An object of the log: an entry and the head that it leads to.

    `peaks` are those of the tree before the entry, and `tail` its leaves since the last full tile. They save a writer
    from reading the log, and are valid only as far as they lead to the signed root, which is checked here.
    """

    entry: Entry
    head: Head
    peaks: tuple[Annotated[str, Hex64], ...]
    tail: tuple[Annotated[str, Hex64], ...]

    @model_validator(mode="after")
    def _leads_to_its_root(self) -> Self:
        size, peaks = self.entry.sequence, [bytes.fromhex(peak) for peak in self.peaks]
        if self.head.size != size + 1 or self.head.signer != self.entry.signer or self.head.at != self.entry.at:
            raise ValueError("the head is not that of its entry")
        if len(peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} entries has {size.bit_count()} peaks, not {len(peaks)}")
        if root_of_peaks(appended(peaks, size, self.entry.leaf)) != self.head.root:
            raise ValueError("the peaks do not lead to the root")
        if self.entry.newest.get(self.entry.kind) != size or max(self.entry.newest.values()) != size:
            raise ValueError("the newest entry of its kind is not the entry itself")
        # The tail is what the last peaks, those smaller than a tile, were made of.
        small = peaks_of([bytes.fromhex(leaf) for leaf in self.tail])
        if len(self.tail) != size % TILE or small != peaks[len(peaks) - len(small) :]:
            raise ValueError("the tail does not lead to the peaks")
        return self

    @property
    def where(self) -> str:
        """The key of the record."""
        return log_key(self.entry.sequence)

    @property
    def next_peaks(self) -> list[bytes]:
        """The peaks of the tree that ends with this entry, which the next one states."""
        return appended([bytes.fromhex(peak) for peak in self.peaks], self.entry.sequence, self.entry.leaf)

    @property
    def full_tile(self) -> bytes | None:
        """The leaves of the tile that this entry completes, 32 bytes each; None where it completes none."""
        if self.head.size % TILE:
            return None
        return b"".join(bytes.fromhex(leaf) for leaf in self.tail) + self.entry.leaf


def log_key(sequence: int) -> str:
    """Return the key of entry number `sequence`, counted from 0."""
    return f"log/{sequence:08d}.json"


def entry_place(key: str) -> int | None:
    """Return the number of the entry that lies at `key`, or None for the key of another object."""
    match = re.fullmatch(r"log/(\d{8})\.json", key)
    return int(match[1]) if match else None


def tile_key(number: int) -> str:
    """Return the key of the leaves of entries `TILE * number` and on, 32 bytes each."""
    return f"log/tiles/{number:08d}"


def next_record(last: LogRecord | None, new: NewEntry, signer: Signer | None, at: datetime) -> LogRecord:
    """Return the record of `new` behind `last`, signed."""
    size = 0 if last is None else last.head.size
    peaks = [] if last is None else last.next_peaks
    entry = Entry(
        sequence=size,
        kind=new.kind,
        key=new.key,
        sha256=new.sha256,
        detail=new.detail,
        totals=(Totals() if last is None else last.entry.totals).plus(new.adds),
        newest={**({} if last is None else last.entry.newest), new.kind: size},
        at=at,
        signer=None if signer is None else signer.ss58_address,
    )
    root = root_of_peaks(appended(peaks, size, entry.leaf))
    return LogRecord(
        format=FORMAT,
        entry=entry,
        head=Head(size=size + 1, root=root, at=at).signed(signer),
        peaks=tuple(peak.hex() for peak in peaks),
        tail=() if last is None or size % TILE == 0 else (*last.tail, last.entry.leaf.hex()),
    )
