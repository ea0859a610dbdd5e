"""A sealed day and a fresh one, and settings that name them."""

from datetime import date
from pathlib import Path

import pytest

from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.stores.open import open_store
from tests.support.corpora import Made, make_corpus
from tests.support.monitored import HOSTILE, TODAY, YESTERDAY

TIERS = """
format = 1
[tiers.now]
description = "at once"
columns = ["true_label"]
license = "none"
[tiers.later]
description = "in a month"
columns = ["true_label"]
delay_days = 30
license = "none"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tiers.toml").write_text(TIERS)
    return load_settings(store=str(tmp_path / "store"), tiers=tmp_path / "tiers.toml")


@pytest.fixture
def made(settings: Settings) -> Made:
    """A sealed day and a fresh one of six rounds of four answers, in which one label has a hostile name."""
    store = open_store(settings.store)
    make_corpus(store, days=[YESTERDAY])

    def changes(_: date, number: int, miner: int) -> dict[str, object]:
        asked = {"judge": "gemma", "semantic_mismatch": True} if miner == 0 else {}
        return asked | {"true_label": 1, "adversarial_label": number // 2, "true_label_name": HOSTILE}

    return make_corpus(store, days=[TODAY], seal=False, changes=changes)
