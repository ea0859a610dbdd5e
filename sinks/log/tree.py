"""The Merkle tree over the log's entries (RFC 9162, section 2.1): a root that grows, and proofs that it only grew.

A tree of n leaves is kept as its peaks: the roots of the perfect trees that the binary digits of n name, the largest
first. So a leaf is appended without reading the others.
"""

import hashlib
from collections.abc import Sequence

from perturb.sinks.formats.merkle import merkle_root


def entry_leaf(canonical: bytes) -> bytes:
    """Return the leaf of an entry in canonical JSON, 32 bytes."""
    return hashlib.sha256(b"\x00" + canonical).digest()


def appended(peaks: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Return the peaks of a tree of `size` leaves after one more."""
    grown, last = list(peaks), leaf
    while size & 1:
        last = _node(grown.pop(), last)
        size >>= 1
    return [*grown, last]


def peaks_of(leaves: Sequence[bytes]) -> list[bytes]:
    """Return the peaks of the tree over `leaves`."""
    peaks: list[bytes] = []
    for size, leaf in enumerate(leaves):
        peaks = appended(peaks, size, leaf)
    return peaks


def root_of_peaks(peaks: Sequence[bytes]) -> str:
    """Return the root of a tree by its peaks, 64 hex digits. Without peaks it is `sha256("")`."""
    if not peaks:
        return merkle_root([])
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = _node(peak, root)
    return root.hex()


def consistency_path(leaves: Sequence[bytes], old_size: int) -> list[str]:
    """Return the proof that the tree over the first `old_size` leaves is the beginning of the tree over all of them.

    RFC 9162, section 2.1.4.1; each step has 64 hex digits. Raises ValueError unless 1 <= old_size <= len(leaves).
    """
    if not 1 <= old_size <= len(leaves):
        raise ValueError(f"old_size is {old_size}; accepted: 1 to {len(leaves)}")
    path: list[str] = []
    first, last, size, complete = 0, len(leaves), old_size, True
    while size != last - first:
        middle = first + _split(last - first)
        if size <= middle - first:
            path.append(merkle_root(leaves[middle:last]))
            last = middle
        else:
            path.append(merkle_root(leaves[first:middle]))
            size -= middle - first
            first, complete = middle, False
    if not complete:
        path.append(merkle_root(leaves[first:last]))
    return path[::-1]


def is_consistent(old_size: int, old_root: str, new_size: int, new_root: str, path: Sequence[str]) -> bool:
    """Return whether `path` shows that the new tree begins with the old one (RFC 9162, section 2.1.4.2)."""
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return old_root == new_root and not path
    steps = [bytes.fromhex(step) for step in path]
    if old_size & (old_size - 1) == 0:
        steps.insert(0, bytes.fromhex(old_root))
    if not steps:
        return False
    old_place, new_place = old_size - 1, new_size - 1
    while old_place & 1:
        old_place, new_place = old_place >> 1, new_place >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if new_place == 0:
            return False
        if old_place & 1 or old_place == new_place:
            old, new = _node(step, old), _node(step, new)
            while old_place and not old_place & 1:
                old_place, new_place = old_place >> 1, new_place >> 1
        else:
            new = _node(new, step)
        old_place, new_place = old_place >> 1, new_place >> 1
    return new_place == 0 and old.hex() == old_root and new.hex() == new_root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """Return the largest power of two below `size`, which is 2 or more."""
    return 1 << (size - 1).bit_length() - 1
