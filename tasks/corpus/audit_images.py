"""Audits the images of a shard against their rows: digests, pixel identities and, in a deep audit, the claims."""

import hashlib
import random
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from perturb.sandbox.stored import decode_stored
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.png import PngRefused
from perturb.schemas.record import Row
from perturb.sinks.corpus.manifest import FileEntry
from perturb.sinks.formats.tar import BLOCK, Member, header
from perturb.sinks.stores.base import KeyRefused, ObjectCorrupt, ObjectMissing, Store
from perturb.subnet.signing import verify_response_signature

_BATCH = 64
# How many clean images are kept for the next perturbed ones.
_ORIGINALS = 64


@dataclass
class ShardFindings:
    """The result of auditing one shard: how many images were read and verified again, and faults as `(where, what)`."""

    images: int = 0
    reverified: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


class ImageAuditor:
    """Audits the images of shards.

    `fraction` is the share of images that are read. With 1, shards are read from end to end and their digests are
    compared too. With `reverify`, the audit is deep: the claims about the images that were read are verified again.
    """

    def __init__(self, *, fraction: float = 1.0, reverify: Reverify | None = None):
        self.reads_all = fraction >= 1
        self._fraction, self._reverify = fraction, reverify
        self._random = random.SystemRandom()
        self._originals: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    @property
    def deep(self) -> bool:
        """Whether the audit is deep."""
        return self._reverify is not None

    def audit_shard(self, store: Store, entry: FileEntry, pairs: Sequence[tuple[Member, Row]]) -> ShardFindings:
        """Audit one shard. `pairs` are its members in the order of their offsets, each with a row that points to it.

        Raises StoreError when the store cannot be read.
        """
        found, batch = ShardFindings(), list[Pair]()
        try:
            images = self._read(store, entry, pairs, found)
            while together := list(islice(images, _BATCH)):
                decoded = decode_stored([(data, row["height"], row["width"]) for _, row, _, data in together])
                for (member, row, head, data), pixels in zip(together, decoded, strict=True):
                    found.images += 1
                    where = f"{entry.key} {member.name}"
                    if head != header(member.name, member.length):
                        found.faults.append((where, "the tar has another member at this offset"))
                    fault = _check_image(data, pixels, row, entry.kind)
                    if fault:
                        found.faults.append((where, fault))
                    elif self.deep and entry.kind == "perturbed":
                        batch.append(Pair(self._original(store, row), data, row))
                self._verify(batch, entry, found)
        except ObjectMissing:
            found.faults.append((entry.key, "it is missing"))
        except (KeyRefused, ObjectCorrupt) as error:
            found.faults.append((entry.key, str(error)))
        return found

    def _read(
        self, store: Store, entry: FileEntry, pairs: Sequence[tuple[Member, Row]], found: ShardFindings
    ) -> Iterator[tuple[Member, Row, bytes, bytes]]:
        """Yield members with row, header and data: all in one pass over the shard, or a random share by range reads."""
        stored = store.head(entry.key)
        if stored is None:
            raise ObjectMissing(entry.key)
        if stored.size != entry.size:
            found.faults.append((entry.key, f"it has {stored.size} bytes, stated are {entry.size}"))
            return
        if self.reads_all:
            digest = yield from _walk(store, entry, pairs, found)
            if entry.sha256 not in (None, digest):
                found.faults.append((entry.key, f"its sha256 is {digest}, stated is {entry.sha256}"))
            return
        for member, row in pairs:
            if self._random.random() < self._fraction:
                piece = store.get_range(entry.key, member.offset - BLOCK, member.length + BLOCK)
                yield member, row, piece[:BLOCK], piece[BLOCK:]

    def _original(self, store: Store, row: Row) -> bytes:
        key = (row["original_shard"], row["original_offset"])
        if key not in self._originals:
            self._originals[key] = store.get_range(*key, row["original_length"])
            if len(self._originals) > _ORIGINALS:
                self._originals.popitem(last=False)
        return self._originals[key]

    def _verify(self, batch: list[Pair], entry: FileEntry, found: ShardFindings) -> None:
        if self._reverify is None or not batch:
            return
        for pair, fault in zip(batch, self._reverify(batch), strict=True):
            found.reverified += 1
            if fault is not None:
                found.faults.append((f"{entry.key} record {pair.row['record_id']}", fault))
        batch.clear()


def _walk(
    store: Store, entry: FileEntry, pairs: Sequence[tuple[Member, Row]], found: ShardFindings
) -> Generator[tuple[Member, Row, bytes, bytes], None, str]:
    """Yield the members of a shard with row, header and data; return the sha256 of the shard, which is read once.

    Bytes between the members that are not zero are faults.
    """
    digest, window, start = hashlib.sha256(), bytearray(), 0
    waiting = list(reversed(pairs))
    for piece in store.stream(entry.key, entry.size):
        digest.update(piece)
        window += piece
        while waiting and waiting[-1][0].offset + waiting[-1][0].length <= start + len(window):
            member, row = waiting.pop()
            place = member.offset - start
            # A pointer to bytes before the window overlaps another member; the check of the layout has reported it.
            if place >= BLOCK:
                if any(window[: place - BLOCK]):
                    found.faults.append(
                        (entry.key, f"it has bytes before {member.name} that do not belong to an image")
                    )
                data = bytes(window[place : place + member.length])
                yield member, row, bytes(window[place - BLOCK : place]), data
                del window[: place + member.length]
                start += place + member.length
        if not waiting:
            if any(window):
                found.faults.append((entry.key, "it has bytes after its last image"))
            start += len(window)
            window.clear()
    return digest.hexdigest()


def file_faults(store: Store, entry: FileEntry) -> str | None:
    """Return what is wrong with a file's presence, size or digest, or None."""
    stored = store.head(entry.key)
    if stored is None:
        return "it is missing"
    if stored.size != entry.size:
        return f"it has {stored.size} bytes, stated are {entry.size}"
    digest = store.sha256(entry.key, entry.size)
    return None if digest == entry.sha256 else f"its sha256 is {digest}, stated is {entry.sha256}"


def _check_image(data: bytes, pixels: Pixels | PngRefused, row: Row, kind: str) -> str | None:
    if kind != "original" and hashlib.sha256(data).hexdigest() != row["body_sha256"]:
        return "the image differs from what the miner sent: its sha256 is not the stated one"
    if isinstance(pixels, PngRefused):
        return f"the image is no longer a valid PNG: {pixels.detail}"
    identity = row["original_sha256" if kind == "original" else "perturbed_sha256"]
    return None if pixel_identity(pixels) == identity else "the image has other pixels than its record states"


def check_signature(row: Row) -> str | None:
    """Return the fault when the row has a miner's signature that does not cover this response, else None."""
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
    return None if genuine else f"the miner's signature is not that of {row['miner_hotkey']} over this response"
