"""`examples/harden.py`: its parts, and one small run on real photographs and the real network."""

import importlib.util
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from perturb.models.classifier import load_classifier
from perturb.schemas.image import encode_png
from perturb.schemas.settings import SealSettings, load_settings
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_records
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.export import export
from tests.support.corpora import make_row

pytestmark = pytest.mark.slow

DAY = date(2026, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The real network on smaller pictures, which it reads as well and in a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERTURB_CLASSIFIER__INPUT_SIZE", "96")
        yield


@pytest.fixture(scope="module")
def harden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("harden", Path(__file__).parents[2] / "examples" / "harden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["harden"] = module
    spec.loader.exec_module(module)
    return module


def one_step(classifier: Any, pixels: np.ndarray, label: int) -> np.ndarray:
    """Two levels along the gradient's sign, which flips most photographs."""
    images = (torch.from_numpy(pixels[None].copy()).permute(0, 3, 1, 2).float() / 255).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(classifier.module(images), torch.tensor([label]))
    (gradient,) = torch.autograd.grad(loss, images)
    step = 2 * gradient.sign()[0].permute(1, 2, 0).numpy()
    return np.clip(pixels + step, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six photographs, each perturbed once, as an export."""
    classifier = load_classifier(load_settings().classifier)
    corpus = Corpus(open_store(str(tmp_path_factory.mktemp("harden"))))
    for number, name in enumerate(("astronaut", "chelsea", "coffee", "rocket")):
        pixels = classifier.prepare(np.ascontiguousarray(getattr(skimage.data, name)()[..., :3]))
        label = int(classifier.logits(pixels[None])[0].argmax())
        changed = one_step(classifier, pixels, label)
        body = encode_png(changed)
        record = make_row(
            DAY, number=number, miner=0, original=pixels, perturbed=changed, body=body, true_label=label,
            height=pixels.shape[0], width=pixels.shape[1],
        )  # fmt: skip
        commit_records(corpus, [record], encode_png(pixels), {record.record_id: body})
    seal_day(corpus, DAY, settings=SealSettings(grace_minutes=0, reverify_fraction=0), early=True)
    tier = Tier(name="t", description="d", columns=("true_label",), license="l")
    return export(corpus, tier, today=date(2027, 1, 1)).path + "/parquet"


def test_a_small_run_takes_perturbations_away_and_keeps_the_network(harden: ModuleType, exported: str) -> None:
    found = harden.main([exported, "--folds", "2", "--epochs", "3", "--stages", "1", "--pgd-steps", "1"])
    assert (found.photographs, found.pairs) == (4, 4)
    assert found.clean.before >= 50
    assert found.perturbed.before < found.clean.before
    for each in (found.clean, found.perturbed, found.fresh_pgd):
        assert 0 <= each.after <= 100
        assert each.low <= each.after - each.before <= each.high


def test_the_interval_is_over_photographs(harden: ModuleType) -> None:
    """Ten pairs of one photograph are one observation, and a difference in all of them proves nothing."""
    before, after = np.zeros(20, bool), np.array([True] * 10 + [False] * 10)
    photo = np.array([0] * 10 + [1] * 10)
    found = harden.change(before, after, photo)
    assert (found.before, found.after) == (0, 50)
    assert (found.low, found.high) == (0, 100)
    alone = harden.change(before, after, np.arange(20))
    assert alone.low > 20


def test_a_split_network_is_the_network(harden: ModuleType, exported: str) -> None:
    classifier = load_classifier(load_settings().classifier)
    pairs = harden.load_pairs(exported, folds=2)
    network = harden.Split(classifier, 2)
    with torch.no_grad():
        found = network(harden.as_images(pairs.clean)).numpy()
    assert np.allclose(found, classifier.logits(pairs.clean), atol=1e-3)
    assert set(pairs.fold) == {0, 1}


def test_a_blend_lies_between_two_networks(harden: ModuleType) -> None:
    before, tuned = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    middle = (before.weight + tuned.weight).detach() / 2
    harden.blend(tuned, before, 0.5)
    assert torch.allclose(tuned.weight, middle)
    harden.blend(tuned, before, 0.0)
    assert torch.equal(tuned.weight, before.weight)


def test_fresh_pgd_stays_in_its_box(harden: ModuleType, exported: str) -> None:
    classifier = load_classifier(load_settings().classifier)
    pairs = harden.load_pairs(exported, folds=2)
    network = harden.Split(classifier, 1)
    found = harden.fresh_pgd(network, pairs.clean, pairs.labels, epsilon=2 / 255, steps=1, seed=0)
    assert found.dtype == np.uint8
    assert 0 < np.abs(found.astype(int) - pairs.clean.astype(int)).max() <= 2
    assert not harden.right(network, harden.batched(network.trunk, found), pairs.labels).all()
