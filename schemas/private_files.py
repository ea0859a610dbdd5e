"""Files and folders that only this user may read: secrets, identities, logs, databases.

An existing folder keeps its mode, because it may be shared on purpose, and it may be `/tmp`.
"""

import os
import stat
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Create a folder that only this user can enter; missing folders above it are created with the usual mode."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def is_private(path: Path) -> bool:
    """Return whether no other user has rights on a file or folder."""
    return not stat.S_IMODE(path.stat().st_mode) & 0o077


def open_private(path: str, flags: int) -> int:
    """Open a file that only this user may read: an `opener` for `open`. It does not follow a link at the end of `path`.

    Raises OSError (ELOOP) for a link.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
