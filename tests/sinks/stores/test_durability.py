"""A directory store survives a crash of the machine: data are on the disk before their name, names before the answer.

Killing a process loses no page cache, so that no kill test sees a missing fsync. This one records the system calls.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perturb.sinks.stores.base import Pieces
from perturb.sinks.stores.directory import DirectoryStore


class Recorder:
    """Records `("fsync", path)`, `("link", source, target)` and the like, in the order in which the calls returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[tuple[str, ...]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._record_fsync)
        self._record(monkeypatch, os, "link")
        self._record(monkeypatch, Path, "rename")
        self._record(monkeypatch, Path, "replace")

    def _record_fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        size = os.fstat(descriptor).st_size
        self._fsync(descriptor)
        self.calls.append(("fsync", str(path)) if path.is_dir() else ("fsync", str(path), str(size)))

    def _record(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real: Callable[..., object] = getattr(owner, name)

        def called(*arguments: Any) -> object:
            result = real(*arguments)
            self.calls.append((name, *map(str, arguments)))
            return result

        monkeypatch.setattr(owner, name, called)

    def published(self, target: Path) -> tuple[int, str]:
        """Position and source of the call that gave `target` its name."""
        (found,) = [
            (place, call[1]) for place, call in enumerate(self.calls) if call[0] != "fsync" and call[2] == str(target)
        ]
        return found

    def synced(self, path: str | Path, *, size: int | None = None) -> list[int]:
        """Positions of the fsyncs of a folder, or of a file when it had `size` bytes."""
        call = ("fsync", str(path)) if size is None else ("fsync", str(path), str(size))
        return [place for place, found in enumerate(self.calls) if found == call]


def _create(store: DirectoryStore, key: str, data: bytes) -> None:
    with store.create(key) as writer:
        writer.write(data)


@pytest.mark.parametrize("write", [DirectoryStore.put_new, DirectoryStore.put, _create])
def test_an_object_is_on_the_disk_before_its_name_and_its_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[DirectoryStore, str, bytes], object]
) -> None:
    store = DirectoryStore(tmp_path / "store")
    recorder = Recorder(monkeypatch)
    write(store, "a/b/object", b"12345")
    target = tmp_path / "store" / "a" / "b" / "object"
    place, source = recorder.published(target)
    assert min(recorder.synced(source, size=5)) < place, "data before name"
    assert max(recorder.synced(target.parent)) > place, "name before answer"
    for folder in (tmp_path / "store", tmp_path / "store" / "a"):
        assert min(recorder.synced(folder)) < place, "new folders before what they hold"


def _parts() -> list[tuple[str, Pieces]]:
    parts = []
    for name, data in (("round/original.tar", b"123"), ("round/perturbed.tar", b"4567")):
        pieces = Pieces()
        pieces.write(data)
        parts.append((name, pieces))
    return parts


def test_a_folder_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DirectoryStore(tmp_path)
    recorder = Recorder(monkeypatch)
    assert store.put_together(_parts(), "round/commit", lambda: b"89") is None
    place, draft = recorder.published(tmp_path / "round")
    for name, size in (("original.tar", 3), ("perturbed.tar", 4), ("commit", 2)):
        assert min(recorder.synced(f"{draft}/{name}", size=size)) < place
    assert min(recorder.synced(draft)) < place, "the names in the folder before the folder's own"
    assert max(recorder.synced(tmp_path)) > place


def test_parts_are_on_the_disk_by_name_before_their_commit_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    store.put_new("round/other", b"so that the folder exists and cannot appear by a rename")
    recorder = Recorder(monkeypatch)
    assert store.put_together(_parts(), "round/commit", lambda: b"89") is None
    commit, source = recorder.published(tmp_path / "round" / "commit")
    assert min(recorder.synced(source, size=2)) < commit
    parts = [recorder.published(tmp_path / "round" / name) for name in ("original.tar", "perturbed.tar")]
    assert min(recorder.synced(parts[0][1], size=3)) < parts[0][0]
    assert min(recorder.synced(parts[1][1], size=4)) < parts[1][0]
    last_part = max(place for place, _ in parts)
    assert any(last_part < place < commit for place in recorder.synced(tmp_path / "round"))
    assert max(recorder.synced(tmp_path / "round")) > commit
