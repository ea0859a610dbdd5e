"""Images of a shard against what their rows say: digests, pixel identities, signatures and, deep, the claims."""

import hashlib
import random
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perturb.schemas.image import pixel_identity
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.png import PngRefused, read_png
from perturb.sinks.corpus.manifest import FileEntry
from perturb.sinks.formats.tar import BLOCK, Member, header
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store
from perturb.subnet.signing import verify_response_signature

_BATCH = 64
_ORIGINALS = 64
_Pair = tuple[Member, Mapping[str, Any]]


@dataclass
class Looked:
    """What came of one shard; faults are `(where, what)`."""

    images: int = 0
    reverified: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


class Glass:
    """How closely images are looked at: which share of them, and whether their claims are verified again.

    `sample` 1 reads shards from end to end and compares their digests too; less reads single images.
    """

    def __init__(self, *, sample: float = 1.0, reverify: Reverify | None = None):
        self.reads_all = sample >= 1
        self._sample, self._reverify = sample, reverify
        self._random = random.SystemRandom()
        self._originals: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    @property
    def deep(self) -> bool:
        """Whether claims are verified again."""
        return self._reverify is not None

    def examine(self, store: Store, entry: FileEntry, pairs: Sequence[_Pair]) -> Looked:
        """Look at one shard; `pairs` are its members with a row each, in the order of their offsets."""
        looked, batch = Looked(), list[Pair]()
        try:
            for member, row, head, data in self._read(store, entry, pairs, looked):
                looked.images += 1
                where = f"{entry.key} {member.name}"
                if head != header(member.name, member.length):
                    looked.faults.append((where, "the tar has another member at this place"))
                fault = _check_original(data, row) if entry.kind == "original" else _check_perturbed(data, row)
                if fault:
                    looked.faults.append((where, fault))
                elif self.deep and entry.kind == "perturbed":
                    batch.append(Pair(self._original(store, row), data, dict(row)))
                    if len(batch) >= _BATCH:
                        self._verify(batch, entry, looked)
            self._verify(batch, entry, looked)
        except ObjectMissing:
            looked.faults.append((entry.key, "it is missing"))
        except ObjectCorrupt as error:
            looked.faults.append((entry.key, str(error)))
        return looked

    def _read(
        self, store: Store, entry: FileEntry, pairs: Sequence[_Pair], looked: Looked
    ) -> Iterator[tuple[Member, Mapping[str, Any], bytes, bytes]]:
        """Members with header and data: the whole shard in one pass, or the sampled ones by range."""
        stored = store.head(entry.key)
        if stored is None:
            raise ObjectMissing(entry.key)
        if stored.size != entry.size:
            looked.faults.append((entry.key, f"it has {stored.size} bytes, {entry.size} are stated"))
            return
        if self.reads_all:
            digest = yield from _walk(store, entry, pairs, looked)
            if entry.sha256 not in (None, digest):
                looked.faults.append((entry.key, f"its sha256 is {digest}, {entry.sha256} is stated"))
            return
        for member, row in pairs:
            if self._random.random() < self._sample:
                piece = store.get_range(entry.key, member.offset - BLOCK, member.length + BLOCK)
                yield member, row, piece[:BLOCK], piece[BLOCK:]

    def _original(self, store: Store, row: Mapping[str, Any]) -> bytes:
        key = (row["original_shard"], row["original_offset"])
        if key not in self._originals:
            self._originals[key] = store.get_range(*key, row["original_length"])
            if len(self._originals) > _ORIGINALS:
                self._originals.popitem(last=False)
        return self._originals[key]

    def _verify(self, batch: list[Pair], entry: FileEntry, looked: Looked) -> None:
        if self._reverify is None or not batch:
            return
        for pair, fault in zip(batch, self._reverify(batch), strict=True):
            looked.reverified += 1
            if fault is not None:
                looked.faults.append((f"{entry.key} record {pair.row['record_id']}", fault))
        batch.clear()


def _walk(
    store: Store, entry: FileEntry, pairs: Sequence[_Pair], looked: Looked
) -> Generator[tuple[Member, Mapping[str, Any], bytes, bytes], None, str]:
    """Members of a shard read once from front to back; returns the digest of all that was read.

    Between the members there may be nothing but zeros.
    """
    digest, window, start = hashlib.sha256(), bytearray(), 0
    waiting = list(reversed(pairs))
    for piece in store.stream(entry.key, entry.size):
        digest.update(piece)
        window += piece
        while waiting and waiting[-1][0].offset + waiting[-1][0].length <= start + len(window):
            member, row = waiting.pop()
            place = member.offset - start
            # A pointer into what has gone by overlaps its neighbour; the layout check has named it already.
            if place >= BLOCK:
                if any(window[: place - BLOCK]):
                    looked.faults.append((entry.key, f"there are bytes before {member.name} that belong to no image"))
                data = bytes(window[place : place + member.length])
                yield member, row, bytes(window[place - BLOCK : place]), data
                del window[: place + member.length]
                start += place + member.length
        if not waiting:
            if any(window):
                looked.faults.append((entry.key, "there are bytes behind its last image"))
            start += len(window)
            window.clear()
    return digest.hexdigest()


def file_faults(store: Store, entry: FileEntry) -> str | None:
    """What is wrong with a whole file's presence, size or digest; None if nothing."""
    stored = store.head(entry.key)
    if stored is None:
        return "it is missing"
    if stored.size != entry.size:
        return f"it has {stored.size} bytes, {entry.size} are stated"
    digest = hashlib.sha256()
    for piece in store.stream(entry.key, entry.size):
        digest.update(piece)
    return None if digest.hexdigest() == entry.sha256 else f"its sha256 is {digest.hexdigest()}, not the stated one"


def _check_original(data: bytes, row: Mapping[str, Any]) -> str | None:
    return _check_pixels(data, row, row["original_sha256"])


def _check_perturbed(data: bytes, row: Mapping[str, Any]) -> str | None:
    if hashlib.sha256(data).hexdigest() != row["body_sha256"]:
        return "the image is not the one that the miner sent: its sha256 differs"
    return _check_pixels(data, row, row["perturbed_sha256"])


def _check_pixels(data: bytes, row: Mapping[str, Any], identity: str) -> str | None:
    try:
        pixels = read_png(data, height=row["height"], width=row["width"])
    except PngRefused as refusal:
        return f"the image is no longer a valid PNG: {refusal.detail}"
    return None if pixel_identity(pixels) == identity else "the image shows other pixels than its record states"


def check_signature(row: Mapping[str, Any]) -> str | None:
    """Whether the miner's signature, where the row has one, is over this very response."""
    signature, nonce, body = row["miner_signature"], row["request_nonce"], row["body_sha256"]
    if signature is None:
        return None
    genuine = verify_response_signature(
        signature,
        task_id=row["task_id"],
        nonce=nonce or "",
        validator_hotkey=row["validator_hotkey"],
        miner_hotkey=row["miner_hotkey"],
        status=200,
        body_sha256=body or "",
    )
    return None if genuine else f"the miner's signature is not {row['miner_hotkey']}'s over this response"
