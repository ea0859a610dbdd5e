"""AutoAttack is unchanged, judged on 8-bit images, and its results in real numbers are its own."""

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack

from perturb.certificates.autoattack import QUICK, STANDARD, attacks_of, breaks, run_autoattack
from perturb.certificates.canary import COUNT, find_canaries, planted
from perturb.certificates.flags import probe, raised_flags
from perturb.certificates.measure import Measurement, measure_image
from perturb.certificates.subject import TorchNetwork, torch_classifier
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.metrics import distances
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels
from perturb.schemas.settings import load_settings
from tests.support import networks
from tests.support.synthetic import clean_pixels


def classifier_of(network: TorchNetwork) -> Classifier:
    return torch_classifier("small", network)


def images(count: int, seed: int = 5) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [clean_pixels(rng, networks.SIDE) for _ in range(count)]


def label_of(classifier: Classifier, pixels: Pixels) -> int:
    return int(classifier.logits(pixels[None])[0].argmax())


def as_autoattack_says(classifier: Classifier, pixels: Pixels, label: int, level: int, seed: int) -> bool:
    """Whether `run_standard_evaluation` itself, on a batch of this image alone, counts it as broken."""
    suite = AutoAttack(
        classifier.module, norm="Linf", eps=level / 255, seed=seed, attacks=list(QUICK), version="custom"
    )
    suite.apgd.n_restarts, suite.apgd_targeted.n_target_classes = 1, min(9, classifier.num_classes - 1)
    image = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255).contiguous()
    _, labels = suite.run_standard_evaluation(image, torch.tensor([label]), batch_size=1)
    return int(labels[0]) != label


@pytest.mark.slow
def test_float_results_are_autoattacks_own() -> None:
    """30 photographs at the level at which about half of them fall; with early stop and without."""
    classifier = classifier_of(networks.small())
    fell, passes = 0, {True: 0, False: 0}
    for number, pixels in enumerate(images(30)):
        label = label_of(classifier, pixels)
        for level in (6,):
            expected = as_autoattack_says(classifier, pixels, label, level, seed=number)
            early = run_autoattack(classifier, pixels, label, level=level, seed=number, attacks=QUICK)
            assert (early.float_by is not None) == expected
            fell += expected
            passes[True] += early.backwards
            if number < 8:
                full = run_autoattack(
                    classifier, pixels, label, level=level, seed=number, attacks=QUICK, early_stop=False
                )
                assert (full.float_by is not None) == expected
                passes[False] += full.backwards
            if early.found is not None:
                assert breaks(classifier, early.found, label)
                assert distances(pixels, early.found).linf_levels <= level
    assert fell > 5


@pytest.mark.slow
def test_early_stop_saves_most_of_the_cost_of_an_undefended_network() -> None:
    classifier = load_classifier(load_settings().classifier)
    from skimage import data

    pixels = classifier.prepare(data.coffee())
    label = label_of(classifier, pixels)
    early = run_autoattack(classifier, pixels, label, level=2, seed=1, attacks=("apgd-ce",))
    full = run_autoattack(classifier, pixels, label, level=2, seed=1, attacks=("apgd-ce",), early_stop=False)
    assert early.by == full.float_by == "apgd-ce"
    assert 15 * early.backwards <= full.backwards


def test_what_falls_in_real_numbers_alone_is_counted_apart() -> None:
    """FAB's smallest changes are far below a level: rounded, they are the unchanged image."""
    classifier, pixels = planted(np.random.default_rng(0), level=1, smooth=False, enough=0.1)
    what = Measurement((1,), ("fab-t",), False, "0" * 64, b"r" * 32)
    (row,) = measure_image(classifier, pixels, 0, index=0, what=what).rows
    assert (row["status"], row["float_by"], row["float_only"]) == ("survived", "fab-t", True)
    # A gradient attack of the same level takes whole steps, which rounding keeps.
    whole = Measurement((1,), ("apgd-ce",), False, "0" * 64, b"r" * 32)
    (row,) = measure_image(classifier, pixels, 0, index=0, what=whole).rows
    assert (row["status"], row["float_only"]) == ("broken", False)


def test_attacks_that_cannot_run_are_skipped_with_the_reason() -> None:
    assert attacks_of("standard", num_classes=10, access="gradients") == (STANDARD, {})
    attacks, skipped = attacks_of("standard", num_classes=2, access="gradients")
    assert attacks == ("apgd-ce", "square")
    assert set(skipped) == {"apgd-t", "fab-t"}
    assert "this subject has 2" in skipped["apgd-t"]
    attacks, skipped = attacks_of("quick", num_classes=10, access="scores")
    assert attacks == ("square",)
    assert "scores only" in skipped["apgd-ce"]
    two = classifier_of(networks.two_classes())
    pixels = images(1)[0]
    outcome = run_autoattack(two, pixels, label_of(two, pixels), level=16, seed=1, attacks=("apgd-ce",))
    assert outcome.by == "apgd-ce"


def test_every_canary_is_found_and_none_by_an_attack_that_does_nothing() -> None:
    for attacks, access in ((QUICK, "gradients"), (("square",), "scores")):
        assert find_canaries(b"seed", level=1, attacks=attacks, access=access) == COUNT
    assert find_canaries(b"seed", level=1, attacks=(), access="gradients") == 0
    classifier, pixels = planted(np.random.default_rng(0), level=1, smooth=False)
    assert label_of(classifier, pixels) == 0


def test_flags() -> None:
    shown = images(4)
    clean = {"images": 4, "randomised": 0, "zero_gradient": 0, "optimisation": 0, "distribution": 0}
    assert probe(classifier_of(networks.small()), shown, access="gradients") == clean
    assert probe(classifier_of(networks.masked()), shown, access="gradients")["zero_gradient"] == 4
    assert probe(classifier_of(networks.random()), shown, access="gradients")["randomised"] == 4
    assert probe(classifier_of(networks.distribution()), shown, access="gradients")["distribution"] == 1
    with pytest.raises(ModelError, match="not finite"):
        probe(classifier_of(networks.undefined()), shown, access="gradients")
    square = [
        {"level": 1, "status": "broken", "float_by": "square"},
        {"level": 1, "status": "survived", "float_by": None},
    ]
    assert raised_flags(clean, square, canary=(20, 20), attacks=STANDARD) == ["square_better"]  # type: ignore[arg-type]
    assert raised_flags(clean, [], canary=(19, 20), attacks=QUICK) == ["canary_missed"]


def test_nothing_survives_an_unbounded_change() -> None:
    classifier = classifier_of(networks.small())
    what = Measurement((64,), QUICK, False, "0" * 64, b"r" * 32)
    for pixels in images(5):
        (row,) = measure_image(classifier, pixels, label_of(classifier, pixels), index=0, what=what).rows
        assert row["status"] == "broken"
