"""Simulates a full disk: all writes of objects go to /dev/full."""

from pathlib import Path
from typing import Any

import pytest


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writes of a directory store end in ENOSPC until `monkeypatch.undo()`. Skips where /dev/full is missing."""
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
