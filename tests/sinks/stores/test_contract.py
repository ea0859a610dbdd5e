"""The store's contract, the same on every store."""

import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from perturb.schemas.errors import StoreError
from perturb.sinks.stores import base
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Pieces, Store
from perturb.sinks.stores.directory import DirectoryStore


def test_an_object_is_created_once(store: Store) -> None:
    assert store.put_new("a/b.bin", b"first")
    assert store.put_new("a/b.bin", b"first"), "the same bytes again are the same object"
    assert not store.put_new("a/b.bin", b"second")
    assert store.get("a/b.bin") == b"first"


def test_put_replaces(store: Store) -> None:
    store.put("card.md", b"before")
    store.put("card.md", b"after")
    assert store.get("card.md") == b"after"


def test_a_writer_publishes_at_its_end_and_never_on_an_error(store: Store) -> None:
    with store.create("big.tar") as writer:
        writer.write(b"one")
        assert store.head("big.tar") is None
        writer.write(memoryview(b"two"))
    assert writer.won
    assert store.get("big.tar", sha256=writer.sha256) == b"onetwo"
    with store.create("big.tar") as late:
        late.write(b"other")
    assert not late.won
    with pytest.raises(ZeroDivisionError), store.create("half.tar") as writer:
        writer.write(b"half" * (1 // 0))
    assert store.head("half.tar") is None
    assert store.unfinished() == []


def test_ranges_are_exact(store: Store) -> None:
    data = bytes(range(256)) * 1000
    store.put_new("shard.tar", data)
    ranges = [(200_000, 500), (0, 1), (7, 100), (100, 3), (255_999, 1), (50, 0)]
    assert store.get_ranges("shard.tar", ranges) == [data[offset : offset + length] for offset, length in ranges]
    assert b"".join(store.stream("shard.tar", len(data))) == data
    with pytest.raises(ObjectCorrupt, match="truncated"):
        store.get_range("shard.tar", 255_990, 20)


def test_a_wrong_digest_is_refused(store: Store) -> None:
    store.put_new("a.bin", b"data")
    with pytest.raises(ObjectCorrupt, match=r"a\.bin"):
        store.get("a.bin", sha256="0" * 64)


def test_missing_objects(store: Store) -> None:
    assert store.head("no/such") is None
    with pytest.raises(ObjectMissing, match="no/such"):
        store.get("no/such")
    with pytest.raises(ObjectMissing):
        store.get_range("no/such", 0, 1)
    store.delete("no/such")
    assert list(store.entries("no/")) == []
    assert store.folders("no/") == []


def test_listing_is_whole_and_resumes(store: Store) -> None:
    keys = ["day=1/a/x", "day=1/b/x", "day=1/b/y", "day=1/manifest", "day=2/a/x", "more/1", "more/2", "top"]
    for key in reversed(keys):
        store.put_new(key, key.encode())
    assert [entry.key for entry in store.entries()] == keys
    assert [entry.key for entry in store.entries("day=1/b")] == ["day=1/b/x", "day=1/b/y"]
    assert [entry.key for entry in store.entries("day=", after="day=1/b/x")] == keys[2:5]
    assert [entry.key for entry in store.entries("day=", after="day=2/")] == ["day=2/a/x"]
    assert [entry.key for entry in store.entries("more/", after="more/1")] == ["more/2"]
    assert store.folders("") == ["day=1", "day=2", "more"]
    assert store.folders("day=1/") == ["a", "b"]
    assert next(iter(store.entries("top"))).size == 3


def test_deleting(store: Store) -> None:
    store.put_new("a/b", b"x")
    store.delete("a/b")
    assert store.head("a/b") is None
    assert list(store.entries()) == []
    assert store.put_new("a/b", b"y")


def test_one_of_many_creators_wins(make_store: Callable[[], Store]) -> None:
    stores = [make_store() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda pair: pair[1].put_new("slot", b"%d" % pair[0]), enumerate(stores)))
    assert won.count(True) == 1
    assert stores[0].get("slot") == b"%d" % won.index(True)


@pytest.mark.parametrize("change", ["deleted", "truncated"])
@pytest.mark.parametrize("together", [False, True])
def test_a_slow_write_does_not_commit_parts_that_were_collected(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: str, together: bool
) -> None:
    """A process that was suspended in mid-write finds its parts collected as garbage; its commit must not appear."""
    monkeypatch.setattr(base, "_SUSPENDED", timedelta(0))
    names = ["round/original.tar", "round/perturbed.tar" if together else "elsewhere/perturbed.tar"]
    parts = []
    for name in names:
        pieces = Pieces()
        pieces.write(b"part")
        parts.append((name, pieces))
    if together and isinstance(store, DirectoryStore):
        # A folder that exists already, so that its files are published one by one.
        store.put_new("round/other", b"")
    head = store.head

    def collect_then_head(key: str) -> base.Entry | None:
        """The garbage collector, at the moment between the parts and their commit."""
        if key == names[1]:
            store.delete(key)
            if change == "truncated":
                store.put(key, b"par")
        return head(key)

    monkeypatch.setattr(store, "head", collect_then_head)
    with pytest.raises(StoreError, match=rf"{names[1]} was deleted before it could be committed"):
        store.put_together(parts, "round/commit", lambda: b"commit")
    monkeypatch.undo()
    assert store.head("round/commit") is None
    monkeypatch.setattr(base, "_SUSPENDED", timedelta(minutes=10))
    store.put_new(names[1], b"part")
    store.put(names[1], b"part")
    assert store.put_together(parts, "round/commit", lambda: b"commit") is None
    assert store.get("round/commit") == b"commit"


def test_presigned_urls_are_readable(store: Store) -> None:
    import ssl

    store.put_new("a.bin", b"data")
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(store.presign("a.bin", expires_s=60), context=unchecked) as answer:
        assert answer.read() == b"data"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a b", "a\n", "ä", "a/", "a?b"])
def test_keys_that_are_none_are_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="cannot be stored"):
        store.put_new(key, b"")


def test_what_a_crash_leaves_is_listed_as_unfinished(tmp_path) -> None:
    store = DirectoryStore(tmp_path)
    left = tmp_path / ".unfinished" / "123-abc"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (entry,) = store.unfinished()
    assert (entry.key, entry.size) == ("123-abc", 4)
    assert list(store.entries()) == []
    store.discard(entry)
    assert store.unfinished() == []
