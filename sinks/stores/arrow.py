"""A store as an Arrow file system, so that Parquet on any store is read with the store's retries and checks."""

import io
from typing import NoReturn

import pyarrow as pa
from pyarrow import fs

from perturb.sinks.stores.base import Store
from perturb.sinks.stores.directory import DirectoryStore


def open_filesystem(store: Store) -> fs.FileSystem:
    """Return a file system whose paths are the store's keys. It is read-only, except for a directory store."""
    if isinstance(store, DirectoryStore):
        return fs.SubTreeFileSystem(str(store.root.absolute()), fs.LocalFileSystem())
    return fs.PyFileSystem(_StoreHandler(store))


class StoreFile(io.RawIOBase):
    """One object as a seekable file. Each read is one range request."""

    def __init__(self, store: Store, key: str, size: int):
        self._store, self._key, self._size, self._place = store, key, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the current position in bytes."""
        return self._place

    def size(self) -> int:
        """Return the length of the object in bytes; Arrow calls this method."""
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, the current position or the end; return the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1, /) -> bytes:
        """Return `size` bytes from the current position, fewer only at the end of the object."""
        rest = max(0, self._size - self._place)
        length = rest if size is None or size < 0 else min(size, rest)
        data = self._store.get_range(self._key, self._place, length) if length else b""
        self._place += length
        return data

    def readall(self) -> bytes:
        """Return the rest of the object."""
        return self.read(-1)


class _StoreHandler(fs.FileSystemHandler):  # type: ignore[misc]
    def __init__(self, store: Store):
        self._store = store

    def get_type_name(self) -> str:
        return "perturb-store"

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        entry = self._store.head(path)
        if entry is None:
            return fs.FileInfo(path, type=fs.FileType.NotFound)
        return fs.FileInfo(path, type=fs.FileType.File, size=entry.size, mtime=entry.modified)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        prefix = selector.base_dir.rstrip("/") + "/" if selector.base_dir else ""
        return [
            fs.FileInfo(entry.key, type=fs.FileType.File, size=entry.size, mtime=entry.modified)
            for entry in self._store.entries(prefix)
        ]

    def open_input_file(self, path: str) -> pa.NativeFile:
        entry = self._store.head(path)
        if entry is None:
            raise FileNotFoundError(path)
        return pa.PythonFile(StoreFile(self._store, path, entry.size), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def normalize_path(self, path: str) -> str:
        return path

    def _read_only(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError("this file system is read-only; write through the store")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _read_only
    move = copy_file = open_output_stream = open_append_stream = _read_only
