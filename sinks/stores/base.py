"""The object store's contract. Everything that lasts goes through it, on a directory or on S3 alike.

To add a store: subclass `Store`, answer the abstract methods as their docstrings say, and let `open_store` know
its URL; `tests/sinks/stores/test_contract.py` then holds it to the contract.
"""

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from perturb.schemas.errors import StoreError

_SEGMENT = re.compile(r"[A-Za-z0-9._=+-]+")
STREAM_BYTES = 8 * 2**20
_GATHERED_BYTES = 2 * 2**20
# Far below the grace time of garbage collection.
_SUSPENDED = timedelta(minutes=10)
Buffer = bytes | bytearray | memoryview


class Pieces:
    """An object's bytes as the buffers that they consist of; nothing is copied before somebody joins them.

    Has what a writer needs of a file (`write`, `tell`). A buffer must not be changed after it was given.
    """

    def __init__(self) -> None:
        self._pieces: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer, /) -> int:
        """Keep a piece."""
        self._pieces.append(data)
        length = memoryview(data).nbytes
        self._size += length
        return length

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    def __iter__(self) -> Iterator[Buffer]:
        return iter(self._pieces)

    def join(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


class ObjectMissing(StoreError):
    """There is no object under this key."""


class ObjectCorrupt(StoreError):
    """An object's bytes are not those that were written."""


@dataclass(frozen=True)
class Entry:
    """One object of a listing: its key, size in bytes, and when it was written (UTC)."""

    key: str
    size: int
    modified: datetime


class _Sink(Protocol):
    def write(self, data: Buffer, /) -> int: ...


class ObjectWriter(io.RawIOBase):
    """A file to write an object into; counts and hashes what passes. `won` is set when the object is published.

    Pieces are gathered, then written while a thread hashes them: both leave the interpreter free. A piece must not
    be changed after it was given.
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
        """Always true."""
        return True

    def write(self, data: Buffer, /) -> int:  # type: ignore[override]
        """Append; a short write of the file below is completed or raises, here or later."""
        view = memoryview(data).cast("B")
        self._gathered.append(view)
        self._size += view.nbytes
        self._waiting += view.nbytes
        if self._waiting >= _GATHERED_BYTES:
            self.drain()
        return view.nbytes

    def drain(self) -> None:
        """Hand everything gathered to the file below."""
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
        """Nothing more will come, for whatever reason; what was only gathered and not drained is dropped."""
        self._gathered = []
        self._wait()
        self._hasher.shutdown()

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    @property
    def sha256(self) -> str:
        """Digest of the bytes written so far, 64 hex digits."""
        if self._gathered:
            self.drain()
        self._wait()
        return self._digest.hexdigest()


@contextmanager
def closing_writer(sink: _Sink) -> Iterator[ObjectWriter]:
    """A writer whose thread ends with the block."""
    writer = ObjectWriter(sink)
    try:
        yield writer
    finally:
        writer.end()


class Store(ABC):
    """A flat map from keys (`rounds/date=2026-01-31/…`) to immutable bytes. Errors are StoreError sentences.

    Nothing is visible until it is whole; what was acknowledged survives a crash of this machine (directory) or is
    durable by the service's own promise (S3).
    """

    url: str

    @abstractmethod
    def create(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """A new object, written piece by piece; published when the block ends, dropped when it raises.

        After the block `writer.won` says what `put_new` would have returned.
        """

    @abstractmethod
    def put_new(self, key: str, data: Buffer) -> bool:
        """Write unless the key is taken. True if the object now consists of exactly these bytes, whoever wrote it."""

    def put_together(self, parts: Sequence[tuple[str, Pieces]], key: str, commit: Callable[[], Buffer]) -> str | None:
        """Create some objects, and after them, when they are sure to last, the one that makes them count.

        `commit` gives the bytes of `key`; it is called while the parts are on their way. Returns None, or the key
        that is taken by other bytes; nothing that stands behind it in order was written.
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
        """A process that was suspended for days may find its parts collected as garbage; then nothing may count."""
        if datetime.now(UTC) - since < _SUSPENDED:
            return
        for key, pieces in parts:
            if (stored := self.head(key)) is None or stored.size != pieces.tell():
                raise StoreError(f"{key} is gone before it could be committed; do the step again")

    @abstractmethod
    def put(self, key: str, data: Buffer) -> None:
        """Write or replace; readers see the old bytes or the new ones."""

    @abstractmethod
    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        """The whole object. Raises ObjectMissing, and ObjectCorrupt where the digest keeps differing."""

    @abstractmethod
    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Their content is not checked: compare digests of your own."""

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several `(offset, length)` of one object, in the order asked."""
        return [self.get_range(key, offset, length) for offset, length in ranges]

    @abstractmethod
    def head(self, key: str) -> Entry | None:
        """Size and time of an object, or None."""

    @abstractmethod
    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        """Objects whose key starts with `prefix` and comes after `after`.

        Names within one folder come sorted; folders and objects beside one another in the service's own order.
        """

    @abstractmethod
    def folders(self, prefix: str) -> list[str]:
        """The next path segments below `prefix` (empty, or ending in `/`), sorted, each once.

        All that hold something are there; a service may also name one whose last object has just been deleted.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove; a key that is already gone is no error."""

    @abstractmethod
    def presign(self, key: str, *, expires_s: int = 3600) -> str:
        """A URL from which anybody can read the object for a while."""

    @abstractmethod
    def unfinished(self) -> list[Entry]:
        """Writes that were begun and never published: temporary files, multipart uploads."""

    @abstractmethod
    def discard(self, unfinished: Entry) -> None:
        """Drop one of `unfinished()`."""

    def stream(self, key: str, size: int) -> Iterator[bytes]:
        """An object of known size in pieces of a few MiB."""
        for offset in range(0, size, STREAM_BYTES):
            yield self.get_range(key, offset, min(STREAM_BYTES, size - offset))


def check_key(key: str) -> str:
    """The key, if it is one. Raises StoreError for absolute, climbing, empty or non-portable ones."""
    segments = key.split("/")
    if not all(_SEGMENT.fullmatch(segment) and set(segment) != {"."} for segment in segments):
        raise StoreError(
            f"key {key!r} cannot be stored; use segments of A-Z a-z 0-9 . _ = + - joined by single slashes"
        )
    return key
