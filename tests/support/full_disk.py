"""Simulates a full disk: all writes of objects go to /dev/full."""

import io
from pathlib import Path
from typing import Any

import pytest


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make writes of a directory store end in ENOSPC until `monkeypatch.undo()`. Skips where /dev/full is missing."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full is missing")

    def open_on_full_disk(path: Path, *_: Any) -> io.FileIO:
        path.open("xb").close()
        return io.FileIO(full, "wb")

    monkeypatch.setattr("perturb.sinks.stores.directory._open_new", open_on_full_disk)
