"""Exports without waiting for the disk, and drawing cheap where pictures are not the subject."""

import pytest

from tests.support.corpora import plain_draw


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power cuts are the store's subject, not that of exports."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots stand in as the statistics they are drawn from, which hides nothing and takes no time."""
    monkeypatch.setattr("perturb.tasks.export.publish_card.draw_plots", plain_draw)
