"""The object store's contract. Everything that lasts goes through it, on a directory or on S3 alike.

To add a store: subclass `Store`, answer the abstract methods as their docstrings say, and let `open_store` know
its URL; `tests/sinks/test_store_contract.py` then holds it to the contract.
"""

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schemas.errors import StoreError
from schemas.settings import S3Settings

_SEGMENT = re.compile(r"[A-Za-z0-9._=+-]+")
STREAM_BYTES = 8 * 2**20
Buffer = bytes | bytearray | memoryview


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
    """A file to write an object into; counts and hashes what passes. `won` is set when the object is published."""

    def __init__(self, sink: _Sink):
        self._sink = sink
        self._digest = hashlib.sha256()
        self._size = 0
        self.won = False

    def writable(self) -> bool:
        """Always true."""
        return True

    def write(self, data: Buffer, /) -> int:  # type: ignore[override]
        """Append; a short write of the file below is completed or raises."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._size += view.nbytes
        self._sink.write(view)
        return view.nbytes

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
        return self._digest.hexdigest()


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


def open_store(url: str, s3: S3Settings | None = None) -> Store:
    """The store behind `url`: a directory, `file://DIR`, or `s3://bucket/prefix`. Opening creates nothing.

    Raises StoreError for any other scheme.
    """
    if url.startswith("s3://"):
        from sinks.s3 import S3Store

        return S3Store(url, s3 or S3Settings())
    from sinks.directory import DirectoryStore

    path = url.removeprefix("file://")
    if "://" in path or not path:
        raise StoreError(f"store {url!r} is of no known kind; use a directory or s3://bucket/prefix")
    return DirectoryStore(path)
