"""Fixtures of the tests that export: no waiting for the disk, and plots that take no time."""

import pytest

from tests.support.corpora import plain_draw


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write without fsync: durability is tested with the stores."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def plain_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace each figure by the statistics that it is drawn from, so that a difference still shows."""
    monkeypatch.setattr("perturb.tasks.export.publish_card.draw_plots", plain_draw)
