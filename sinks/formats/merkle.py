"""The Merkle tree over a day's records (RFC 6962, section 2.1) and inclusion proofs.

A leaf is `sha256(0x00 | canonical record)`, a node `sha256(0x01 | left | right)`. The tree over n leaves splits at the
largest power of two below n. Leaves are sorted by record ID.
"""

import hashlib
from collections.abc import Mapping, Sequence

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import POINTERS, Row


def canonical_record(row: Mapping[str, object]) -> Row:
    """Return a metadata row as it enters the tree: the columns that are not null, without the six pointers.

    So a leaf names the columns that it covers. A column that it does not name is null, or did not exist when the row
    was written: a column that is added later changes no leaf, and a leaf covers columns that only newer programs know.
    """
    return {name: value for name, value in row.items() if value is not None and name not in POINTERS}


def leaf_hash(row: Mapping[str, object]) -> bytes:
    """Return the leaf of one metadata row, 32 bytes, from all columns that its file has.

    Raises CorpusError for NaN and infinities.
    """
    try:
        return hashlib.sha256(b"\x00" + canonical_json(canonical_record(row))).digest()
    except ValueError as error:
        raise CorpusError(f"record {row.get('record_id')} has a value that JSON cannot hold: {error}") from error


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def merkle_root(leaves: Sequence[bytes]) -> str:
    """Return the root over leaves in their order, 64 hex digits. Without leaves it is `sha256("")`."""
    if not leaves:
        return hashlib.sha256().hexdigest()
    level = list(leaves)
    # Pairing neighbours and carrying an odd last one up gives the same tree as splitting at powers of two.
    while len(level) > 1:
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) - len(level) % 2 :]
    return level[0].hex()


def record_root(leaves: Mapping[str, bytes]) -> str:
    """Return the root over `{record_id: leaf}`, sorted by record ID."""
    return merkle_root([leaves[record_id] for record_id in sorted(leaves)])


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[str]:
    """Return the audit path of one leaf (RFC 6962, section 2.1.1): siblings from leaf to root, 64 hex digits each."""
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
    """Return the root that a path leads to, or None when the path does not fit a tree of `size` leaves."""
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
