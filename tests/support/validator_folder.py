"""A validator's folder with a small corpus, in which commands run as an operator runs them."""

from datetime import date
from pathlib import Path

from perturb.sinks.stores.open import open_store
from tests.support.commands import ROOT
from tests.support.corpora import make_corpus

SEALED, LIVE = date(2026, 1, 5), date(2026, 1, 6)


def validator_folder(folder: Path) -> Path:
    """Write a corpus with one sealed and one live day, the project's tiers and a roster without miners."""
    store = open_store(str(folder / "data"))
    make_corpus(store, days=[SEALED], rounds=2)
    make_corpus(store, days=[LIVE], rounds=1, seal=False)
    (folder / "roster.toml").write_text("")
    (folder / "perturb.toml").write_text(
        f'tiers = "{ROOT / "tiers.toml"}"\nsubnet.roster = "roster.toml"\n'
        'subnet.hotkey_uri = "//PerturbValidator"\nseal.reverify_fraction = 0\n'
    )
    return folder
