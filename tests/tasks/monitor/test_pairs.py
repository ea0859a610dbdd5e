"""Which pairs are drawn: the best of each photograph, and the latest."""

import pytest

from perturb.sandbox.stored import pair_pixels
from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.monitor.best_pairs import best_pairs
from perturb.tasks.monitor.latest_pairs import latest_pairs
from tests.support.corpora import Made, make_corpus
from tests.support.monitored import TODAY, YESTERDAY


def scored(_: object, number: int, miner: int) -> dict[str, object]:
    """Later rounds score lower, and miner 2 is the best of each round."""
    return {"score": 0.9 - number / 10 + (0.05 if miner == 2 else 0) - miner / 1000}


@pytest.fixture
def days(settings: Settings) -> Made:
    """A sealed day and a live one, of three photographs with three accepted answers each."""
    store = open_store(settings.store)
    make_corpus(store, days=[YESTERDAY], rounds=3, changes=scored)
    return make_corpus(store, days=[TODAY], rounds=3, seal=False, changes=scored, seed=1)


def test_each_photograph_gives_its_best_pair_before_any_gives_a_second(days: Made) -> None:
    pairs = best_pairs(Corpus(days.corpus.store), 5, day=TODAY)
    scores = [round(pair.row["score"], 3) for pair in pairs]
    assert scores == [0.948, 0.848, 0.748, 0.9, 0.8]
    assert len({pair.row["original_sha256"] for pair in pairs[:3]}) == 3
    for pair in pairs:
        original, perturbed = pair_pixels(pair)
        assert original.shape == perturbed.shape == (pair.row["height"], pair.row["width"], 3)
    assert len(best_pairs(Corpus(days.corpus.store), 99)) == 18
    with pytest.raises(CorpusError, match="no accepted record on 2026-02-28"):
        best_pairs(Corpus(days.corpus.store), 1, day=YESTERDAY.replace(month=2, day=28))


def test_the_latest_rounds_give_their_best_pair(days: Made, settings: Settings) -> None:
    latest = latest_pairs(Corpus(days.corpus.store), 2)
    assert [round(pair.row["score"], 3) for pair in latest] == [0.748, 0.848]
    assert {pair.row["created_at"].date() for pair in latest} == {TODAY}


def test_without_live_rounds_the_last_sealed_day_is_shown(settings: Settings) -> None:
    sealed = make_corpus(open_store(settings.store), days=[YESTERDAY], rounds=3, changes=scored)
    latest = latest_pairs(Corpus(sealed.corpus.store), 2)
    assert [round(pair.row["score"], 3) for pair in latest] == [0.748, 0.848]
    assert latest_pairs(Corpus(open_store(settings.store + "-empty")), 2) == []
