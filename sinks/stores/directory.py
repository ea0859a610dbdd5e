"""A directory as object store. A write goes to a temporary file, then fsync, then a link or rename into place.

A root that this store creates can be entered by its owner only. What is private (`own_keys.is_private`) is readable by
the owner, and where the root is a folder that its group may write to, by that group: a shared folder's writers need it.
Everything else has the usual rights of new files.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from perturb.schemas.errors import StoreError
from perturb.sinks.stores.base import (
    Buffer,
    Entry,
    ObjectCorrupt,
    ObjectMissing,
    ObjectWriter,
    Pieces,
    Store,
    check_key,
    closing_writer,
)
from perturb.sinks.stores.fsync import flushing, make_folders, sync_folder, sync_folders_of, write_durably
from perturb.sinks.stores.own_keys import is_own_key, is_own_segment, is_private

# Temporary files live beside the objects, so that publishing is a link within one file system.
UNFINISHED = ".unfinished"
# The names of temporary files and folders: the process and random digits.
_TEMPORARY = re.compile(r"\d+-[0-9a-f]+")


class DirectoryStore(Store):
    """Objects are files below `root`. A key is created by `link(2)`, which fails when the name is taken."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.url = str(root)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _mode(self, key: str, rights: int) -> int:
        """Return those of `rights` that the object or folder `key` may give, before the umask."""
        if not is_private(key):
            return rights
        group = 0o770 if self.root.stat().st_mode & stat.S_IWGRP else 0o700
        return rights & group

    def _unfinished_folder(self) -> Path:
        folder = self.root / UNFINISHED
        make_folders(folder, self.root)
        return folder

    @contextmanager
    def _temporary(self, key: str) -> Iterator[tuple[Path, io.FileIO]]:
        """Yield a new file among the unfinished writes. Publishing links it; the end of the block removes this name."""
        path = self.root / UNFINISHED / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._unfinished_folder()
            with _open_new(path, self._mode(key, 0o666)) as file:
                yield path, file
        except OSError as error:
            raise _sentence(error, self.root) from error
        finally:
            # A read-only disk refuses this too. What stays is listed as unfinished; its error must not hide the first.
            with contextlib.suppress(OSError):
                path.unlink()

    @contextmanager
    def create(self, key: str) -> Iterator[ObjectWriter]:
        target = self._path(key)
        with self._temporary(key) as (path, file), flushing(file) as sink, closing_writer(sink) as writer:
            yield writer
            writer.drain()
            os.fsync(file.fileno())
            writer.won = self._publish(path, key) or _digest(target) == writer.sha256
            sync_folder(target.parent)

    def _publish(self, path: Path, key: str) -> bool:
        """Link a durable file to its name; return False when the name is taken. The caller makes the folder durable."""
        target = self._path(key)
        while True:
            make_folders(target.parent, self.root, mode=self._mode(key, 0o777))
            try:
                os.link(path, target)
            except FileExistsError:
                return False
            except FileNotFoundError:
                # A concurrent `delete` of the folder's last object also removed the folder: create it again.
                if not path.exists():
                    raise
                continue
            return True

    def put_new(self, key: str, data: Buffer) -> bool:
        pieces = Pieces()
        pieces.write(data)
        return self._put_in_order([], key, pieces) is None

    def put_together(self, parts: Sequence[tuple[str, Pieces]], key: str, commit: Callable[[], Buffer]) -> str | None:
        """As in `Store`. Objects that will fill a folder by themselves are written as a folder that is then renamed."""
        started = datetime.now(UTC)
        folder = self._path(key).parent
        together = all(self._path(part).parent == folder for part, _ in parts)
        last = Pieces()
        if together and not folder.exists():
            published, data = self._put_folder(parts, folder, self._path(key).name, commit)
            if published:
                return None
            last.write(data)
        else:
            last.write(commit())
        return self._put_in_order(parts, key, last, started=started)

    def _put_folder(
        self, parts: Sequence[tuple[str, Pieces]], folder: Path, name: str, commit: Callable[[], Buffer]
    ) -> tuple[bool, Buffer]:
        """Write a folder and rename it into place; return whether that succeeded, and the commit's bytes.

        This waits for the disk twice, however many parts there are.
        """
        draft = self.root / UNFINISHED / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._unfinished_folder()
            draft.mkdir()
            with ExitStack() as stack:
                names = [self._path(part).name for part, _ in parts]
                files = [stack.enter_context(_open_new(draft / one)) for one in (*names, name)]
                # Entered last, so that on an error its threads end before the files that they write are closed.
                pool = stack.enter_context(ThreadPoolExecutor(len(parts) + 1))
                pending = [
                    pool.submit(write_durably, file, content) for file, (_, content) in zip(files, parts, strict=False)
                ]
                pending.append(pool.submit(self._make_ready, draft, folder.parent))
                data = commit()
                write_durably(files[-1], [data])
                for future in pending:
                    future.result()
            return self._rename_folder(draft, folder), data
        except OSError as error:
            raise _sentence(error, self.root) from error
        finally:
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)

    def _make_ready(self, draft: Path, parent: Path) -> None:
        sync_folder(draft)
        make_folders(parent, self.root)

    def _rename_folder(self, draft: Path, folder: Path) -> bool:
        while True:
            try:
                draft.rename(folder)
            except FileNotFoundError:
                make_folders(folder.parent, self.root)
                continue
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            sync_folder(folder.parent)
            return True

    def _put_in_order(
        self, parts: Sequence[tuple[str, Pieces]], key: str, last: Pieces, *, started: datetime | None = None
    ) -> str | None:
        """Make all files durable, then the names of the parts, then the name of the commit.

        Returns None, or the first key that is taken by other bytes.
        """
        everything = [*parts, (key, last)]
        with ExitStack() as stack:
            unfinished = [stack.enter_context(self._temporary(name)) for name, _ in everything]
            for (_, file), (_, content) in zip(unfinished, everything, strict=True):
                write_durably(file, content)
            targets = [self._path(name) for name, _ in everything]
            for (path, _), target, (name, content) in zip(unfinished, targets, everything, strict=True):
                if name == key and parts and started is not None:
                    sync_folders_of(targets[:-1])
                    self._look_again(parts, since=started)
                if not self._publish(path, name) and target.read_bytes() != content.join():
                    return name
            sync_folder(targets[-1].parent)
        return None

    def put(self, key: str, data: Buffer) -> None:
        target = self._path(key)
        with self._temporary(key) as (path, file):
            write_durably(file, [data])
            make_folders(target.parent, self.root, mode=self._mode(key, 0o777))
            path.replace(target)
            sync_folder(target.parent)

    def get(self, key: str, *, sha256: str | None = None) -> bytes:
        try:
            data = self._path(key).read_bytes()
        except OSError as error:
            raise _missing(error, key, self.root) from error
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ObjectCorrupt(
                f"{key} differs from what was written, whose sha256 is {sha256}; restore it from a copy"
            )
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
                raise ObjectCorrupt(
                    f"{key} is truncated: it ends before byte {offset + length}; restore it from a copy"
                )
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
            # A file that vanishes between scan and stat was deleted: it is no longer part of the listing.
            elif key > after and is_own_key(key) and (entry := self.head(key)) is not None:
                yield entry

    def _scan(self, folder: str) -> list[tuple[str, bool]]:
        """Return `(name, is_folder)` of a folder's entries in key order. A folder's name ends in `/`, as in keys.

        Names that cannot be ours are left out here, so that what lies below them is never read.
        """
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                own = [entry for entry in entries if is_own_segment(entry.name)]
                found = [(entry.name + "/", True) if _is_folder(entry) else (entry.name, False) for entry in own]
                links = {entry.name + "/" for entry in own if entry.is_symlink()}
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            if self.root.is_dir():
                return []
            raise _sentence(error, self.root) from error
        except OSError as error:
            raise _sentence(error, self.root) from error
        return sorted(pair for pair in found if pair[0] not in links or not self._leads_back(folder, pair[0]))

    def _leads_back(self, folder: str, link: str) -> bool:
        """Return whether a link in `folder` leads to that folder or to one above it, so that walking it has no end."""
        above = (self.root, *(self.root / part for part in _prefixes(folder)))
        return os.path.realpath(f"{self.root}/{folder}{link}") in map(os.path.realpath, above)

    def folders(self, prefix: str) -> list[str]:
        found = (name for name, is_folder in self._scan(prefix) if is_folder)
        return sorted(name.rstrip("/") for name in found if next(self.entries(prefix + name), None) is not None)

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
        folder, found = self.root / UNFINISHED, []
        try:
            for path in sorted(folder.iterdir()):
                # A write that ended meanwhile is no longer unfinished.
                with contextlib.suppress(FileNotFoundError):
                    if _TEMPORARY.fullmatch(path.name):
                        found.append(_entry(path.name, path.lstat()))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _sentence(error, self.root) from error
        return found

    def discard(self, unfinished: Entry) -> None:
        path = self.root / UNFINISHED / check_key(unfinished.key)
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _sentence(error, self.root) from error


def _open_new(path: Path, rights: int = 0o666) -> io.FileIO:
    """Create a file with these rights, before the umask. Raises FileExistsError for a name that is taken."""
    return io.FileIO(path, "xb", opener=lambda name, flags: os.open(name, flags, rights))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or into a folder that this user may not enter.
        return False


def _prefixes(folder: str) -> list[str]:
    """Return the folders on the way to `a/b/`: `a` and `a/b`."""
    parts = folder.strip("/").split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _entry(key: str, stat: os.stat_result) -> Entry:
    return Entry(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    return StoreError(f"store {root}: {hint}; no incomplete object is visible")


def _missing(error: OSError, key: str, root: Path) -> StoreError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return ObjectMissing(f"{key} does not exist in store {root}")
    return _sentence(error, root)
