"""A directory as object store: temporary file, fsync, then a link or rename into place."""

import contextlib
import errno
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from schemas.errors import StoreError
from sinks.store import Buffer, Entry, ObjectCorrupt, ObjectMissing, ObjectWriter, Store, check_key, closing_writer

# Temporary files live beside the objects, so that publishing is a link within one file system.
UNFINISHED = ".unfinished"


class DirectoryStore(Store):
    """Objects are files below `root`. Keys are created by `link(2)`, which fails where the name is taken."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser()
        self.url = str(root)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, io.FileIO]]:
        """A new file among the unfinished, gone at the end of the block; who publishes it gives it a second name."""
        folder = self.root / UNFINISHED
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("xb", buffering=0) as file:
                yield path, file
        except OSError as error:
            raise _sentence(error, self.root) from error
        finally:
            if folder.is_dir():
                path.unlink(missing_ok=True)

    @contextmanager
    def create(self, key: str) -> Iterator[ObjectWriter]:
        target = self._path(key)
        with self._temporary() as (path, file), closing_writer(_Complete(file)) as writer:
            yield writer
            writer.drain()
            os.fsync(file.fileno())
            writer.won = self._publish(path, target) or _digest(target) == writer.sha256
            _sync_folder(target.parent)

    def _publish(self, path: Path, target: Path) -> bool:
        """Give a durable file its name, unless the name is taken. The caller makes the folder durable."""
        while True:
            _make_parents(target.parent, self.root)
            try:
                os.link(path, target)
            except FileExistsError:
                return False
            except FileNotFoundError:
                # Whoever deleted the last object of this folder took the folder along: make it again.
                if not path.exists():
                    raise
                continue
            return True

    def put_new(self, key: str, data: Buffer) -> bool:
        return self.put_together([], key, lambda: data) is None

    def put_together(self, parts: Sequence[tuple[str, Buffer]], key: str, commit: Callable[[], Buffer]) -> str | None:
        """As promised, with three waits for the disk however many the parts: files, their names, the commit's name."""
        started = datetime.now(UTC)
        targets = [self._path(part) for part, _ in parts]
        last = self._path(key)
        with ExitStack() as stack:
            unfinished = [stack.enter_context(self._temporary()) for _ in (*parts, key)]
            # Entered last, so that on an error its threads are done before the files are closed under them.
            pool = stack.enter_context(ThreadPoolExecutor(len(parts) + 1))
            pending = [
                pool.submit(_write_durably, file, data) for (_, file), (_, data) in zip(unfinished, parts, strict=False)
            ]
            pending.append(pool.submit(_make_parents, last.parent, self.root))
            data = commit()
            path, file = unfinished[-1]
            _write_durably(file, data)
            for future in pending:
                future.result()
            for (part_path, _), target, (part, part_data) in zip(unfinished, targets, parts, strict=False):
                if not self._publish(part_path, target) and target.read_bytes() != part_data:
                    return part
            _sync_folders(targets)
            self._look_again(parts, since=started)
            if not self._publish(path, last) and last.read_bytes() != data:
                return key
            _sync_folder(last.parent)
        return None

    def put(self, key: str, data: Buffer) -> None:
        target = self._path(key)
        with self._temporary() as (path, file):
            _write_durably(file, data)
            _make_parents(target.parent, self.root)
            path.replace(target)
            _sync_folder(target.parent)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        try:
            data = self._path(key).read_bytes()
        except OSError as error:
            raise _missing(error, key, self.root) from error
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ObjectCorrupt(f"{key} is not what was written: its sha256 should be {sha256}; restore it from a copy")
        return data

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self.get_ranges(key, [(offset, length)])[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        try:
            with self._path(key).open("rb", buffering=0) as file:
                pieces = [os.pread(file.fileno(), length, offset) for offset, length in ranges]
        except OSError as error:
            raise _missing(error, key, self.root) from error
        for (offset, length), piece in zip(ranges, pieces, strict=True):
            if len(piece) != length:
                raise ObjectCorrupt(f"{key} ends before byte {offset + length}; it was cut: restore it from a copy")
        return pieces

    def head(self, key: str) -> Entry | None:
        try:
            return _entry(key, self._path(key).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _sentence(error, self.root) from error

    def entries(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        base = prefix.rpartition("/")[0]
        yield from self._walk(base + "/" if base else "", prefix, after)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[Entry]:
        for name, is_folder in self._scan(folder):
            key = folder + name
            if not (key.startswith(prefix) or (is_folder and prefix.startswith(key))):
                continue
            if is_folder:
                if key >= after or after.startswith(key):
                    yield from self._walk(key, prefix, after)
            elif key > after:
                # A file that vanishes between scan and stat was deleted: it is no longer part of the listing.
                with contextlib.suppress(FileNotFoundError):
                    yield _entry(key, (self.root / key).stat())

    def _scan(self, folder: str) -> list[tuple[str, bool]]:
        """Names in a folder in key order; a folder's name ends in `/`, because that is how its keys go on."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = [(entry.name + "/", True) if entry.is_dir() else (entry.name, False) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _sentence(error, self.root) from error
        return sorted(pair for pair in found if folder or pair[0] != UNFINISHED + "/")

    def folders(self, prefix: str) -> list[str]:
        found = (name for name, is_folder in self._scan(prefix) if is_folder and self._holds(prefix + name))
        return sorted(name.rstrip("/") for name in found)

    def _holds(self, folder: str) -> bool:
        return next(self._walk(folder, folder, ""), None) is not None

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for parent in path.parents:
                if parent == self.root:
                    break
                parent.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
                raise _sentence(error, self.root) from error

    def presign(self, key: str, *, expires_s: int = 3600) -> str:
        return self._path(key).resolve().as_uri()

    def unfinished(self) -> list[Entry]:
        return list_folder(self.root / UNFINISHED)

    def discard(self, unfinished: Entry) -> None:
        (self.root / UNFINISHED / check_key(unfinished.key)).unlink(missing_ok=True)


def list_folder(folder: Path) -> list[Entry]:
    """The plain files of one folder; their names stand as keys."""
    if not folder.is_dir():
        return []
    return [_entry(path.name, path.stat()) for path in sorted(folder.iterdir())]


class _Complete:
    """Writes everything or raises: a raw file may take less than it is given when the disk is nearly full.

    It keeps the file, not its descriptor: a write after the file was closed raises, and hits no other file.
    """

    def __init__(self, file: io.FileIO):
        self._file = file

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        done = 0
        while done < view.nbytes:
            done += self._file.write(view[done:]) or 0
        return done


def _entry(key: str, stat: os.stat_result) -> Entry:
    return Entry(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folders(targets: Sequence[Path]) -> None:
    for folder in {target.parent for target in targets}:
        _sync_folder(folder)


def _write_durably(file: io.FileIO, data: Buffer) -> None:
    _Complete(file).write(data)
    os.fsync(file.fileno())


def _make_parents(folder: Path, root: Path) -> None:
    """Create missing folders from the root down, each entry made durable before something is put into it."""
    missing = [path for path in (folder, *folder.parents) if path.is_relative_to(root) and not path.is_dir()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EACCES: "not permitted: choose a directory that this user may write to (PERTURB_STORE)",
    errno.EPERM: "not permitted, or the file system has no hard links: choose another directory (PERTURB_STORE)",
    errno.EROFS: "the file system is read-only: choose a directory that can be written to (PERTURB_STORE)",
    errno.ENOTDIR: "part of the path is a file: choose a directory (PERTURB_STORE)",
    errno.EEXIST: "part of the path is a file: choose a directory (PERTURB_STORE)",
}


def _sentence(error: OSError, root: Path) -> StoreError:
    hint = _HINTS.get(error.errno or 0, f"{error.strerror}: check the directory, then run the same command again")
    return StoreError(f"store {root}: {hint}; nothing half-written was left visible")


def _missing(error: OSError, key: str, root: Path) -> StoreError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return ObjectMissing(f"{key} is not in store {root}")
    return _sentence(error, root)
