"""Replacing a file that another program reads, such as a web server or a metrics collector."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perturb.schemas.errors import StoreError


@contextmanager
def drafts_beside(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`, on the same file system, so that a file can be moved from it to `path`.

    The folder has an unpredictable name, and only this user can write to it: in a folder that others may write to, a
    link planted under the name of a draft would redirect the writing. The folder of `path` is made where it is missing.
    Raises StoreError, also for an OSError of the block.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); name a file in a writable folder") from error


def replace_file(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Write `data` to `path` in one step: a reader finds the old content or the new one.

    A link at `path` is replaced, not followed. `mode` are the rights of the file, by default those of every new file.
    Raises StoreError.
    """
    with drafts_beside(path) as folder:
        draft = folder / path.name
        draft.write_bytes(data)
        if mode is not None:
            draft.chmod(mode)
        draft.replace(path)
