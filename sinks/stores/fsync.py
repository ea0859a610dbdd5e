"""Files that last: complete writes, and fsync of everything that a file's existence depends on."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from perturb.sinks.stores.base import Buffer

_FLUSH_BYTES = 16 * 2**20


class CompleteFile:
    """Writes everything or raises: a raw file may take less than it is given when the disk is nearly full.

    It keeps the file, not its descriptor: a write after the file was closed raises, and hits no other file.
    """

    def __init__(self, file: io.FileIO):
        self._file = file

    def write(self, data: Buffer, /) -> int:
        """All of `data`."""
        view = memoryview(data)
        done = 0
        while done < view.nbytes:
            done += self._file.write(view[done:]) or 0
        return done


class FlushingFile(CompleteFile):
    """Lets the disk work while more is being written, so that the last fsync has little left to wait for."""

    def __init__(self, file: io.FileIO, pool: ThreadPoolExecutor):
        super().__init__(file)
        self._pool = pool
        self._unflushed = 0
        self._flushing: Future[None] | None = None

    def write(self, data: Buffer, /) -> int:
        """All of `data`."""
        written = super().write(data)
        self._unflushed += written
        if self._unflushed >= _FLUSH_BYTES and (self._flushing is None or self._flushing.done()):
            self._unflushed = 0
            self._flushing = self._pool.submit(os.fdatasync, self._file.fileno())
        return written


@contextmanager
def flushing(file: io.FileIO) -> Iterator[FlushingFile]:
    """A `FlushingFile` whose thread is done before the file can be closed."""
    with ThreadPoolExecutor(1) as pool:
        yield FlushingFile(file, pool)


def write_durably(file: io.FileIO, pieces: Iterable[Buffer]) -> None:
    """Everything, onto the disk."""
    sink = CompleteFile(file)
    for piece in pieces:
        sink.write(piece)
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders_of(files: Sequence[Path]) -> None:
    """Make the names of these files durable."""
    for folder in {path.parent for path in files}:
        sync_folder(folder)


def make_folders(folder: Path, root: Path) -> None:
    """Create missing folders from `root` down, each name made durable before something is put into it."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder == root:
            folder.parent.mkdir(parents=True, exist_ok=True)
            break
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
