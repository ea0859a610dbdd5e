"""The contract of an object store. All lasting data goes through it, into a directory or into S3.

To add a store: subclass `Store`, implement the abstract methods as their docstrings say, and add its URL scheme to
`perturb.sinks.stores.open.open_store`. `tests/sinks/stores/test_contract.py` then tests it against the contract.
"""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from perturb.schemas.errors import StoreError
from perturb.sinks.stores.own_keys import SEGMENT

STREAM_BYTES = 8 * 2**20
_GATHERED_BYTES = 2 * 2**20
# A write that takes longer checks its parts again before it commits. Far below the grace time of garbage collection,
# which is a day.
_SUSPENDED = timedelta(minutes=10)
Buffer = bytes | bytearray | memoryview


class Pieces:
    """An object's bytes as a list of buffers, which are copied only by `join`.

    It has the part of a file that a writer needs (`write`, `tell`). A buffer must not change after `write`.
    """

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer, /) -> int:
        """Append a buffer; return its length in bytes."""
        self._pieces.append(data)
        length = memoryview(data).nbytes
        self._size += length
        return length

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._size

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self._pieces)

    def join(self) -> bytes:
        """Return all bytes in one piece."""
        return b"".join(self._pieces)


class ObjectMissing(StoreError):
    """The store has no object under this key."""


class KeyTaken(StoreError):
    """A create-only write found an object under its key."""


class KeyRefused(StoreError):
    """No store takes this key."""


class ObjectCorrupt(StoreError):
    """An object's bytes differ from those that were written."""


@dataclass(frozen=True)
class Entry:
    """One object of a listing: its key, its size in bytes, and the time of its last write (UTC)."""

    key: str
    size: int
    modified: datetime


class _Sink(Protocol):
    def write(self, data: Buffer, /) -> int: ...


class ByteSink(_Sink, Protocol):
    """The part of a file that the writers of tars and tables need."""

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        ...


class ObjectWriter(io.RawIOBase):
    """A file to write an object into, which counts and hashes the bytes. `won` is set when the object is published.

    Pieces are gathered, then written while a thread hashes them, because writing and hashing both release the
    interpreter lock. A piece must not change after `write`.
    """

    def __init__(self, sink: _Sink):
        self._sink = sink
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1)
        self._hashing: Future[None] | None = None
        self._gathered: list[memoryview] = []
        self._waiting = 0
        self._size = 0
        self.won = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Buffer, /) -> int:  # type: ignore[override]
        """Append a piece; return its length in bytes. An error of the file below is raised here or by a later call."""
        view = memoryview(data).cast("B")
        self._gathered.append(view)
        self._size += view.nbytes
        self._waiting += view.nbytes
        if self._waiting >= _GATHERED_BYTES:
            self.drain()
        return view.nbytes

    def drain(self) -> None:
        """Write all gathered pieces to the file below."""
        pieces, self._gathered, self._waiting = self._gathered, [], 0
        self._wait()
        if pieces:
            self._hashing = self._hasher.submit(self._hash, pieces)
            for piece in pieces:
                self._sink.write(piece)

    def _hash(self, pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            self._digest.update(piece)

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def end(self) -> None:
        """Stop the hashing thread. Pieces that were gathered and not drained are dropped."""
        self._gathered = []
        self._wait()
        self._hasher.shutdown()

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._size

    @property
    def size(self) -> int:
        """The number of bytes written so far."""
        return self._size

    @property
    def sha256(self) -> str:
        """sha256 of the bytes written so far, 64 hex digits."""
        if self._gathered:
            self.drain()
        self._wait()
        return self._digest.hexdigest()


@contextmanager
def closing_writer(sink: _Sink) -> Iterator[ObjectWriter]:
    """Yield a writer whose hashing thread ends with the block."""
    writer = ObjectWriter(sink)
    try:
        yield writer
    finally:
        writer.end()


class Store(ABC):
    """A flat map from keys (`rounds/date=2026-01-31/…`) to immutable bytes.

    An object becomes visible when all its bytes are stored. An acknowledged object survives a crash of this machine
    (directory) or is as durable as the service promises (S3). All methods raise StoreError when the store cannot be
    reached, read or written.
    """

    url: str

    @abstractmethod
    def create(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Yield a writer for a new object, which is published when the block ends and dropped when it raises.

        After the block, `writer.won` is what `put_new` would have returned.
        """

    @abstractmethod
    def put_new(self, key: str, data: Buffer) -> bool:
        """Write an object unless its key is taken; return whether the object now consists of exactly these bytes.

        So a retry of a write that succeeded returns True.
        """

    def put_together(self, parts: Sequence[tuple[str, Pieces]], key: str, commit: Callable[[], Buffer]) -> str | None:
        """Create `parts`, and once they are durable, the object `key` that commits them.

        `commit` returns the bytes of `key`; it is called while the parts are being written. Returns None on success,
        or the key that is taken by other bytes; then nothing after that key was written.
        """
        started = datetime.now(UTC)
        with ThreadPoolExecutor(len(parts)) as pool:
            pending = [pool.submit(self.put_new, part, pieces.join()) for part, pieces in parts]
            data = commit()
        for (part, _), future in zip(parts, pending, strict=True):
            if not future.result():
                return part
        self._look_again(parts, since=started)
        return None if self.put_new(key, data) else key

    def _look_again(self, parts: Sequence[tuple[str, Pieces]], *, since: datetime) -> None:
        """Raise StoreError when parts of a slow write are gone, so that the object that commits them is not written.

        A process that was suspended for days may find its parts collected as garbage.
        """
        if datetime.now(UTC) - since < _SUSPENDED:
            return
        for key, pieces in parts:
            if (stored := self.head(key)) is None or stored.size != pieces.tell():
                raise StoreError(f"{key} was deleted before it could be committed; run the step again")

    @abstractmethod
    def put(self, key: str, data: Buffer) -> None:
        """Write or replace an object. Readers see either the old bytes or the new ones."""

    @abstractmethod
    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """Return the whole object.

        Raises ObjectMissing when it does not exist, and ObjectCorrupt when its digest differs from `sha256` or from
        the digest that is stored with it.
        """

    @abstractmethod
    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`. The caller checks their content, by a digest of its own.

        Raises ObjectMissing when the object does not exist, and ObjectCorrupt when it ends before the range does.
        """

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several `(offset, length)` ranges of one object, in the given order. Raises as `get_range` does."""
        return [self.get_range(key, offset, length) for offset, length in ranges]

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """Return the entry of an object, or None when it does not exist."""

    @abstractmethod
    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        """Yield the objects whose key starts with `prefix` and sorts after `after`.

        Only objects that this project writes are yielded (`own_keys.is_own_key`), whatever else lies in the store.
        Objects in one folder are sorted by key. The order between a folder and the objects beside it is the service's.
        """

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """Return the next path segments below `prefix` (empty, or ending in `/`), sorted and distinct.

        Every folder that holds an object of ours is listed; a service may also list one whose last object was just
        deleted, or one that holds objects of other programs only.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object. A key that does not exist is not an error."""

    @abstractmethod
    def presign(self, key: str, *, expires_s: int = 3600) -> str:
        """Return a URL from which the object can be read without credentials for `expires_s` seconds."""

    @abstractmethod
    def unfinished(self) -> list[Entry]:
        """Return writes that were begun and never published: temporary files and multipart uploads."""

    @abstractmethod
    def discard(self, unfinished: Entry) -> None:
        """Delete one entry of `unfinished()`."""

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """Yield an object of known size in pieces of `STREAM_BYTES`. Raises as `get_range` does."""
        for offset in range(0, size, STREAM_BYTES):
            yield self.get_range(key, offset, min(STREAM_BYTES, size - offset))

    def sha256(self, key: str, size: int) -> str:
        """Return the sha256 of an object of known size, read in pieces: 64 hex digits. Raises as `get_range`."""
        digest = hashlib.sha256()
        for piece in self.stream(key, size):
            digest.update(piece)
        return digest.hexdigest()


def check_key(key: str) -> str:
    """Return the key unchanged. Raises KeyRefused for an empty or absolute key, `.` and `..`, and other characters."""
    segments = key.split("/")
    if not all(SEGMENT.fullmatch(segment) and set(segment) != {"."} for segment in segments):
        raise KeyRefused(
            f"key {key!r} cannot be stored; accepted: segments of A-Z a-z 0-9 . _ = + - joined by single slashes"
        )
    return key
