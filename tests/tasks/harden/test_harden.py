"""Hardening: sealed days -> a challenger with its report, the same for the same days, nothing where it was stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from perturb.models.classifier import load_classifier
from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.target_report import render_report
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.arms import material_of
from perturb.tasks.harden.batches import BATCH, epoch_of
from perturb.tasks.harden.harden import HardenSummary, harden
from perturb.tasks.harden.measured import measure_on_corpus
from perturb.tasks.harden.pairs import divide, read_photographs, warnings
from perturb.tasks.harden.train import Recipe, Training
from perturb.tasks.lineup.find import load_target
from perturb.tasks.targets.gates import GATES
from perturb.tasks.tiers.grant import split_place
from tests.support.attacked_corpus import DAY, seal_attacked

COUNT, MINERS = 10, 4
# Two epochs of the 20 pairs that are trained on.
SMALL: dict[str, Any] = {"minutes": 0.02, "fewest": COUNT, "attacked": 1}


@dataclass(frozen=True)
class Hardened:
    """Settings of a store with a sealed day, and what `harden` made of it."""

    settings: Settings
    made: HardenSummary


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    """Training is killed after the control arm's first epoch, and goes on when it is called again."""
    folder = tmp_path_factory.mktemp("hardened")
    settings = load_settings(store=str(folder / "store"))
    classifier = settings.classifier.model_copy(update={"input_size": 96})
    settings = settings.model_copy(update={"classifier": classifier, "cache_dir": folder / "cache"})
    seal_attacked(Corpus(open_store(settings.store)), load_classifier(classifier), count=COUNT, miners=MINERS)

    def kill(text: str) -> None:
        if text.startswith("control arm: epoch 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harden(settings, tell=kill, **SMALL)
    assert Registry.open(settings).names() == ["lite0-g0"]
    told: list[str] = []
    made = harden(settings, tell=told.append, **SMALL)
    assert "goes on after epoch 2" in told
    return Hardened(settings, made)


@pytest.mark.slow
def test_a_challenger_has_a_card_that_says_what_it_was_made_of(hardened: Hardened) -> None:
    registry = Registry.open(hardened.settings)
    target = registry.get("lite0-g1")
    assert (target.parent, target.generation, target.sha256) == ("lite0-g0", 1, hardened.made.sha256)
    assert target.recipe is not None
    assert target.recipe["name"] == "harden-1"
    manifest = Corpus.open(hardened.settings).manifest(DAY)
    assert manifest is not None
    assert target.recipe["days"] == {str(DAY): manifest.merkle_root}
    assert target.recipe["photographs"] == {"train": 5, "validation": 1, "test": 4}
    report = registry.report("lite0-g1")
    assert report == hardened.made.report
    card = report.card
    assert report.photographs == 4
    assert report.pairs == 4 * MINERS
    assert card.shared_photographs == 0
    assert card.watched is not None
    assert set(card.old_flips) == set(card.control_flips) == {"lite0-g0"}
    # With four photographs intervals are wide; the values themselves show that the arms differ.
    assert card.learned is not None
    assert card.old_flips["lite0-g0"].value < card.control_flips["lite0-g0"].value <= 1
    assert GATES["gate-1"]["sound"](card) is None
    assert GATES["gate-1"]["no leak"](card) is None
    page = render_report(report)
    assert "lite0-g1" in page
    assert str(report.verdict.gate) in page


@pytest.mark.slow
def test_the_same_days_give_the_same_weights_whether_stopped_or_not(hardened: Hardened, tmp_path: Path) -> None:
    """The cache of the second run is empty, so that nothing of the stopped one is left."""
    again = harden(hardened.settings.model_copy(update={"cache_dir": tmp_path}), **SMALL)
    assert again.sha256 == hardened.made.sha256
    assert again.target == "lite0-g1"
    assert again.report == hardened.made.report
    assert not list((tmp_path / "harden").glob("*/*"))


@pytest.mark.slow
def test_a_target_is_measured_again_on_what_it_was_not_trained_on(hardened: Hardened) -> None:
    report = measure_on_corpus(hardened.settings, "lite0-g1", fewest=COUNT, attacked=0)
    assert report.photographs == 4
    assert report.card.learned == hardened.made.report.card.learned
    assert report.card.shared_photographs == 0
    assert Registry.open(hardened.settings).report("lite0-g1") == report
    assert load_target(hardened.settings, Registry.open(hardened.settings).get("lite0-g1")).height == 96


@pytest.mark.slow
def test_bad_requests_are_named(hardened: Hardened) -> None:
    with pytest.raises(CorpusError, match=r"10 photographs.*at least 20"):
        harden(hardened.settings)
    with pytest.raises(ModelError, match="'lite0-g9' is not in the registry"):
        harden(hardened.settings, parent="lite0-g9")
    with pytest.raises(ModelError, match="'lite0-g1' exists"):
        harden(hardened.settings, name="lite0-g1")
    with pytest.raises(CorpusError, match="2026-01-02 is not sealed"):
        harden(hardened.settings, days=[DAY.replace(day=2)])


@pytest.mark.slow
def test_photographs_are_divided_by_their_pixels(hardened: Hardened) -> None:
    corpus, registry = Corpus.open(hardened.settings), Registry.open(hardened.settings)
    found = read_photographs(corpus, registry, days=[DAY], size=(96, 96))
    parts = divide(found)
    assert max(split_place(one.identity) for one in parts.test) < parts.held_out_below
    assert parts == divide(list(reversed(found)))
    assert len(divide(found, below=split_place(parts.test[1].identity)).test) == 1
    with pytest.raises(CorpusError, match="0 to measure on"):
        divide(found, below=0)
    assert sum(len(one.versions) for one in read_photographs(corpus, registry, days=[DAY], size=(96, 96), most=7)) == 7
    assert read_photographs(corpus, registry, days=[DAY], size=(96, 97)) == []
    assert len(warnings(found)) == 1
    assert "most values" in warnings(found)[0]


@pytest.mark.slow
def test_fresh_perturbations_change_what_is_learned(hardened: Hardened) -> None:
    """Beside the same pairs in the same order; the control arm sees clean images in place of fresh ones, too."""
    settings = hardened.settings
    registry = Registry.open(settings)
    parent = load_target(settings, registry.get("lite0-g0"))
    photographs = read_photographs(Corpus.open(settings), registry, days=[DAY], size=(96, 96))
    material = material_of(parent, photographs[:2], 1)

    def head(*, fresh: bool, control: bool = False) -> torch.Tensor:
        training = Training(parent, material, Recipe(epochs=1, stages=1, fresh=fresh), control=control)
        training.run()
        return training.network.state()["classifier.weight"]

    plain, fresh, control = head(fresh=False), head(fresh=True), head(fresh=True, control=True)
    assert not torch.equal(fresh, plain)
    assert not torch.equal(fresh, control)


def test_no_miner_has_more_than_a_quarter_of_a_batch() -> None:
    """One miner with nine tenths of all answers, half of them against an older target."""
    miners = ["flood"] * 180 + [f"miner {number}" for number in range(5)] * 4
    newest = [place % 2 == 0 for place in range(200)]
    batches = epoch_of(miners, newest, torch.Generator().manual_seed(0))
    places = [place for batch in batches for place in batch]
    assert len(places) == len(set(places))
    assert {place for place in range(200) if newest[place]} <= set(places)
    for batch in batches:
        assert sum(miners[place] == "flood" for place in batch) <= BATCH // 4
        assert sum(newest[place] for place in batch) <= BATCH // 2
