"""Makes `corpora` importable for the tests of exports, and drawing cheap where pictures are not the subject."""

import sys
from pathlib import Path

import pytest

from sinks.digest import Statistics
from sinks.plots import plot_names

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the store's subject, not that of exports."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots stand in as the statistics they are drawn from, which hides nothing and takes no time."""

    def draw(statistics: Statistics) -> dict[str, bytes]:
        return {name: statistics.model_dump_json().encode() for name in plot_names(statistics)}

    monkeypatch.setattr("tasks.export_card.draw_plots", draw)
