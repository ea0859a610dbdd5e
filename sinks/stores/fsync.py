"""Durable files: complete writes, and fsync of each file and folder that a file's existence depends on."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from perturb.sinks.stores.base import Buffer

_FLUSH_BYTES = 16 * 2**20


class CompleteFile:
    """Writes all bytes or raises. A raw file may write fewer bytes than it is given when the disk is nearly full.

    It keeps the file object and not the descriptor, so that a write after the file was closed raises. The descriptor
    could belong to another file by then.
    """

    def __init__(self, file: io.FileIO):
        self._file = file

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`; return its length in bytes."""
        view = memoryview(data)
        done = 0
        while done < view.nbytes:
            done += self._file.write(view[done:]) or 0
        return done


class FlushingFile(CompleteFile):
    """Flushes in a thread while more is being written, so that the last fsync has little left to wait for."""

    def __init__(self, file: io.FileIO, pool: ThreadPoolExecutor):
        super().__init__(file)
        self._pool = pool
        self._unflushed = 0
        self._flushing: Future[None] | None = None

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`; return its length in bytes."""
        written = super().write(data)
        self._unflushed += written
        if self._unflushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._flushing = self._pool.submit(os.fdatasync, self._file.fileno())
        return written


@contextmanager
def flushing(file: io.FileIO) -> Iterator[FlushingFile]:
    """Yield a `FlushingFile` whose thread ends with the block, before the file is closed."""
    with ThreadPoolExecutor(1) as pool:
        yield FlushingFile(file, pool)


def write_durably(file: io.FileIO, pieces: Iterable[Buffer]) -> None:
    """Write all pieces and wait until they are on the disk."""
    sink = CompleteFile(file)
    for piece in pieces:
        sink.write(piece)
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders_of(files: Sequence[Path]) -> None:
    """Wait until the names of these files are on the disk."""
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def make_folders(folder: Path, root: Path, *, mode: int = 0o777) -> None:
    """Create the missing folders from `root` to `folder`. Each name is durable before anything is created in it.

    `mode` are the rights of the folders below `root`. The root itself is private: its owner may open it to others.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder == root:
            folder.parent.mkdir(parents=True, exist_ok=True)
            break
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=0o700 if path == root else mode, exist_ok=True)
        sync_folder(path.parent)
