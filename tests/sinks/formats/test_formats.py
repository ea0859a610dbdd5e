"""Tar, Merkle tree, manifests: the formats by themselves."""

import hashlib
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.manifest import RoundStatement, parse_round
from perturb.sinks.formats.merkle import inclusion_path, leaf_hash, merkle_root, root_from_path
from perturb.sinks.formats.tar import Member, TarWriter, check_layout
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.s3 import join_ranges

MEMBERS = st.lists(
    st.tuples(st.text("0123456789abcdef", min_size=4, max_size=32), st.binary(max_size=2000)),
    max_size=8,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=50, deadline=None)
@given(MEMBERS)
def test_tar_offsets_are_where_tarfile_finds_the_data(members: list[tuple[str, bytes]]) -> None:
    sink = io.BytesIO()
    writer = TarWriter(sink)
    placed = [writer.add(f"{name}.perturbed.png", data) for name, data in members]
    writer.finish()
    whole = sink.getvalue()
    assert check_layout(placed, len(whole)) == []
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert [(info.name, info.offset_data, info.size) for info in tar] == [
            (member.name, member.offset, member.length) for member in placed
        ]
        assert [tar.extractfile(info).read() for info in tar] == [data for _, data in members]
    assert all(whole[m.offset : m.offset + m.length] == data for m, (_, data) in zip(placed, members, strict=True))


def test_a_tar_cut_at_a_member_boundary_has_the_wrong_layout() -> None:
    first, second = Member("a.png", 512, 100), Member("b.png", 1536, 10)
    assert check_layout([first, second], 3072) == []
    assert check_layout([first, second], 1024 + 1024)
    assert check_layout([first], 3072)
    assert check_layout([first, Member("b.png", 1024, 10)], 3072)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_every_leaf_is_provable_and_nothing_else(leaves: list[bytes], data: st.DataObject) -> None:
    root = merkle_root(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = inclusion_path(leaves, index)
    assert root_from_path(leaves[index], index, len(leaves), path) == root
    other = hashlib.sha256(leaves[index]).digest()
    assert root_from_path(other, index, len(leaves), path) != root
    assert root_from_path(leaves[index], index, len(leaves), [*path, "00" * 32]) is None
    if path:
        assert root_from_path(leaves[index], index, len(leaves), path[:-1]) is None


def _reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _reference_root(leaves[:split]) + _reference_root(leaves[split:])).digest()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 9, 31, 100])
def test_the_tree_is_that_of_rfc_6962(count: int) -> None:
    leaves = [hashlib.sha256(b"\x00%d" % number).digest() for number in range(count)]
    assert merkle_root(leaves) == _reference_root(leaves).hex()


def test_leaves_ignore_pointers_and_nulls_and_nothing_else() -> None:
    row = {"record_id": "a", "score": 0.5, "original_shard": "x", "original_offset": 1}
    assert leaf_hash(row) == leaf_hash(row | {"original_shard": "y", "original_offset": 2})
    assert leaf_hash(row) != leaf_hash(row | {"score": 0.5000000001})
    assert leaf_hash(row) == leaf_hash(row | {"more": None})
    assert leaf_hash(row) != leaf_hash(row | {"more": 0})
    assert leaf_hash(row) == leaf_hash(json.loads(canonical_json(row)))
    with pytest.raises(CorpusError, match="nan is not representable"):
        leaf_hash(row | {"score": float("nan")})


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**5)), min_size=1, max_size=30))
def test_joined_ranges_cover_all(ranges: list[tuple[int, int]]) -> None:
    joined = join_ranges(ranges)
    assert joined == sorted(joined)
    for offset, length in ranges:
        assert any(start <= offset and offset + length <= start + size for start, size in joined)


class Keys:
    def __init__(self, uri: str):
        from bittensor.keyfiles import Keypair

        self.keypair = Keypair.create_from_uri(uri)
        self.ss58_address = self.keypair.ss58_address
        self.sign = self.keypair.sign


def test_a_signature_covers_every_field() -> None:
    bare = RoundStatement(format=FORMAT, round_id="r", records=1, images=0, merkle_root="0" * 64, files=())
    assert bare.signature_fault() is None
    signed = bare.signed(Keys("//Alice"))
    assert signed.signature_fault() is None
    again = parse_round(signed.to_json(), "x")
    assert again == signed
    for change in (
        {"records": 2},
        {"merkle_root": "1" * 64},
        {"signer": Keys("//Bob").ss58_address},
        {"round_id": "q"},
    ):
        assert signed.model_copy(update=change).signature_fault()
    assert signed.model_copy(update={"signature": None}).signature_fault()
    assert signed.model_copy(update={"signature": "zz"}).signature_fault()


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None, True, 1.0])
def test_another_format_version_is_refused_by_name(version: object) -> None:
    with pytest.raises(CorpusError, match=r"metadata\.parquet.*format version"):
        parse_round(json.dumps({"format": version}).encode(), "rounds/x/metadata.parquet")
