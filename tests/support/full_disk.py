"""A disk that has no room for another byte of an object: what is written goes to /dev/full."""

from pathlib import Path
from typing import Any

import pytest


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until `monkeypatch.undo()`, what a directory store writes ends in ENOSPC. Skips where /dev/full is missing."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full is missing")
    opened = Path.open

    def open_on_full_disk(self: Path, *arguments: Any, **options: Any) -> Any:
        if ".unfinished" in self.parts and "xb" in arguments:
            opened(self, "xb").close()
            return opened(full, "wb", buffering=0)
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
