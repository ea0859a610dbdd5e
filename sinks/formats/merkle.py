"""The Merkle tree over a day's records, after RFC 6962 section 2.1, and inclusion proofs.

Leaves are `sha256(0x00 | canonical record)`, nodes `sha256(0x01 | left | right)`, and the tree over n leaves splits
at the largest power of two below n. Leaves stand in the order of their record ids.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import POINTERS


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; floats as their shortest decimal that reads back the same.

    Raises ValueError for NaN and infinities, which have no JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    raise TypeError(f"{type(value).__name__} cannot stand in a record")


def canonical_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A metadata row as it enters the tree: every column but the six pointers."""
    return {name: value for name, value in row.items() if name not in POINTERS}


def leaf_hash(row: Mapping[str, Any]) -> bytes:
    """The leaf of one metadata row (a mapping of all its columns), 32 bytes. CorpusError for NaN and infinities."""
    try:
        return hashlib.sha256(b"\x00" + canonical_json(canonical_record(row))).digest()
    except ValueError as error:
        raise CorpusError(f"record {row.get('record_id')} has a number that is not finite; it cannot stand") from error


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Root over leaves in their order, 64 hex digits; of no leaves, `sha256("")`."""
    if not leaves:
        return hashlib.sha256().hexdigest()
    level = list(leaves)
    # Pairing neighbours and carrying an odd last one up gives the same tree as splitting at powers of two.
    while len(level) > 1:
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return level[0].hex()


def record_root(leaves: Mapping[str, bytes]) -> str:
    """Root over `{record_id: leaf}`, in the order of the ids."""
    return merkle_root([leaves[record_id] for record_id in sorted(leaves)])


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[str]:
    """The audit path of RFC 6962 section 2.1.1 for one leaf, nearest sibling first, each 64 hex digits."""
    path: list[str] = []
    level, place = list(leaves), index
    while len(level) > 1:
        sibling = place ^ 1
        if sibling < len(level):
            path.append(level[sibling].hex())
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
        place //= 2
    return path


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[str]) -> str | None:
    """The root that a path leads to, or None where the path does not fit a tree of `size` leaves."""
    if not 0 <= index < size:
        return None
    siblings = [bytes.fromhex(step) for step in path]
    node, place, width = leaf, index, size
    while width > 1:
        if place ^ 1 < width:
            if not siblings:
                return None
            sibling = siblings.pop(0)
            node = _node(sibling, node) if place & 1 else _node(node, sibling)
        place //= 2
        width = (width + 1) // 2
    return None if siblings else node.hex()
