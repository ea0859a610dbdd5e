"""Makes `corpora` importable for the tests of exports, and drawing cheap where pictures are not the subject."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from corpora import plain_draw


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the store's subject, not that of exports."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots stand in as the statistics they are drawn from, which hides nothing and takes no time."""
    monkeypatch.setattr("tasks.export_card.draw_plots", plain_draw)
