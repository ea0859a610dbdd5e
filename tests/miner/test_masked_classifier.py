"""A miner keeps away from the labels that the challenge names as the same kind of thing."""

import time

import numpy as np
import pytest
import skimage.data

from perturb.attacks import load_attack
from perturb.miner.masked_classifier import MaskedClassifier
from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.bounds import Bounds
from perturb.schemas.settings import Settings


@pytest.mark.slow
def test_an_attack_on_the_merged_classifier_flips_past_the_excluded_labels() -> None:
    classifier: Classifier = load_classifier(Settings().classifier)
    pixels = classifier.prepare(skimage.data.coffee())
    clean = classifier.logits(pixels[None])[0]
    label, *nearest = (int(index) for index in np.argsort(-clean)[:4])
    run, bounds = load_attack("pgd"), Bounds()
    plain = run(classifier, pixels, label, bounds, deadline=time.monotonic() + 60, seed=1)
    assert int(classifier.logits(plain[None])[0].argmax()) in nearest, "without the hint it takes a near label"
    merged = MaskedClassifier(classifier, label, nearest)
    answer = run(merged, pixels, label, bounds, deadline=time.monotonic() + 60, seed=1)  # type: ignore[arg-type]
    logits = classifier.logits(answer[None])[0]
    group = [label, *nearest]
    assert np.delete(logits, group).max() - logits[group].max() >= bounds.min_margin
    seen = merged.logits(answer[None])[0]
    assert seen.argmax() == logits.argmax()
    assert seen[label] == logits[group].max()
