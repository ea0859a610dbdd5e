"""The tree of the log against the recursive definitions of RFC 9162, and proofs that were tampered with."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from perturb.sinks.formats.merkle import inclusion_path, merkle_root, root_from_path
from perturb.sinks.log.tree import appended, consistency_path, is_consistent, peaks_of, root_of_peaks

LEAVES = [hashlib.sha256(bytes([place])).digest() for place in range(70)]
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70)).map(sorted)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_subproof(m: int, leaves: list[bytes], complete: bool) -> list[bytes]:
    """RFC 9162, section 2.1.4.1."""
    if m == len(leaves):
        return [] if complete else [naive_root(leaves)]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m <= k:
        return [*naive_subproof(m, leaves[:k], complete), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


@given(st.integers(1, 70))
def test_peaks_lead_to_the_root(size: int) -> None:
    assert root_of_peaks(peaks_of(LEAVES[:size])) == naive_root(LEAVES[:size]).hex() == merkle_root(LEAVES[:size])
    assert appended(peaks_of(LEAVES[: size - 1]), size - 1, LEAVES[size - 1]) == peaks_of(LEAVES[:size])
    assert len(peaks_of(LEAVES[:size])) == size.bit_count()


@given(SIZES)
def test_a_tree_that_grew_is_proven(sizes: list[int]) -> None:
    old, new = sizes
    path = consistency_path(LEAVES[:new], old)
    assert path == [step.hex() for step in naive_subproof(old, LEAVES[:new], True)]
    assert is_consistent(old, merkle_root(LEAVES[:old]), new, merkle_root(LEAVES[:new]), path)


@given(SIZES, st.data())
def test_a_tree_that_did_not_only_grow_is_refused(sizes: list[int], data: st.DataObject) -> None:
    old, new = sizes
    path = consistency_path(LEAVES[:new], old)
    old_root, new_root = merkle_root(LEAVES[:old]), merkle_root(LEAVES[:new])
    forged = data.draw(st.integers(0, old - 1))
    other = [bytes(32) if place == forged else leaf for place, leaf in enumerate(LEAVES[:new])]
    assert not is_consistent(old, merkle_root(other[:old]), new, new_root, path)
    # A head over another past, with a proof of its own.
    assert not is_consistent(old, old_root, new, merkle_root(other), consistency_path(other, old))
    assert not is_consistent(old, old_root, new, new_root, [*path, "00" * 32])
    if path:
        bit = data.draw(st.integers(0, 255))
        place = data.draw(st.integers(0, len(path) - 1))
        flipped = f"{int(path[place], 16) ^ 1 << bit:064x}"
        changed = [*path[:place], flipped, *path[place + 1 :]]
        assert not is_consistent(old, old_root, new, new_root, changed)
        assert not is_consistent(old, old_root, new, new_root, path[:-1])
    assert not is_consistent(0, merkle_root([]), new, new_root, [])
    assert not is_consistent(new, new_root, old, old_root, path) or old == new


@given(SIZES)
def test_a_leaf_is_proven_in_every_later_tree(sizes: list[int]) -> None:
    place, size = sizes[0] - 1, sizes[1]
    path = inclusion_path(LEAVES[:size], place)
    assert root_from_path(LEAVES[place], place, size, path) == merkle_root(LEAVES[:size])
