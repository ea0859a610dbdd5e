"""Photographs become challenges only where their label can be believed."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import load_judge
from perturb.schemas.challenge import Challenge, Photo
from perturb.schemas.errors import SourceError
from perturb.schemas.image import pixel_identity
from perturb.schemas.settings import ChallengeSettings, ClassifierSettings, JudgeSettings, Settings
from perturb.tasks.challenge.draw import draw_challenge
from perturb.tasks.challenge.package import Unfit, make_challenge

ESPRESSO, TRIPOD = 967, 872
TABBY, TIGER_CAT, EGYPTIAN_CAT, MALAMUTE, MOPED = 281, 282, 285, 249, 665
NOW = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(Settings().classifier)


def photo(name: str, **known: object) -> Photo:
    path = Path(skimage.data.__file__).parent / name
    return Photo(np.asarray(Image.open(path).convert("RGB")), source="test", source_id=name, **known)


def make(photo: Photo, classifier: Classifier, tmp_path: Path, **floors: float) -> Challenge | Unfit:
    settings = Settings(challenge=ChallengeSettings(**floors))
    judge = load_judge(JudgeSettings(name="none"), cache=tmp_path)
    return make_challenge(photo, classifier=classifier, judge=judge, settings=settings, now=NOW)


def test_a_known_class_makes_a_challenge_that_keeps_the_pixel_contract(classifier: Classifier, tmp_path: Path) -> None:
    made = make(photo("coffee.png", true_class=ESPRESSO, subject="coffee", author="R. M."), classifier, tmp_path)
    assert isinstance(made, Challenge)
    assert made.round_id.startswith("20260504T030201987654Z-")
    assert made.task.true_label == ESPRESSO
    assert made.task.true_label_name == "espresso"
    assert made.origin.synset == "n07920052"
    assert made.origin.author == "R. M."
    assert made.pixels.shape == (made.task.height, made.task.width, 3) == (classifier.height, classifier.width, 3)
    assert made.task.original_sha256 == pixel_identity(made.pixels)
    assert made.task.classifier_sha256 == classifier.sha256
    logits = classifier.logits(made.pixels[None])[0]
    assert made.origin.clean_margin == pytest.approx(float(np.sort(logits)[-1] - np.sort(logits)[-2]), abs=1e-4)


@pytest.mark.parametrize(("subject", "covered"), [("cat", True), ("Tabby cats", False), ("animals", True)])
def test_labels_that_the_subject_covers_are_excluded(
    subject: str, covered: bool, classifier: Classifier, tmp_path: Path
) -> None:
    """The photograph is of a tabby; a tiger cat, and to the word "animals" a dog, is no mistake about its subject."""
    made = make(photo("chelsea.png", subject=subject), classifier, tmp_path, min_clean_margin=0, min_clean_confidence=0)
    assert isinstance(made, Challenge)
    assert made.task.true_label in (TABBY, TIGER_CAT, EGYPTIAN_CAT)
    others = {TABBY, TIGER_CAT, EGYPTIAN_CAT} - {made.task.true_label}
    assert (others <= set(made.task.excluded_labels)) == covered
    assert (MALAMUTE in made.task.excluded_labels) == (subject == "animals")
    assert MOPED not in made.task.excluded_labels


def test_a_judge_is_never_shown_the_class_numbers_of_another_network() -> None:
    class Judge:
        name, sha256 = "any", "0"

        def belongs(self, pairs: object) -> None:
            raise AssertionError(f"asked about {pairs}")

        same_kind = belongs

    settings = Settings(
        classifier=ClassifierSettings(name="mobilenetv3_large_100.miil_in21k", weights="random:1"),
        challenge=ChallengeSettings(min_clean_margin=0, min_clean_confidence=0),
    )
    other = load_classifier(settings.classifier)
    assert other.num_classes == 11_221
    cat = photo("chelsea.png", subject="cat")
    made = make_challenge(cat, classifier=other, judge=Judge(), settings=settings, now=NOW)
    assert isinstance(made, Challenge)
    assert made.origin.judge == "none"


@pytest.mark.parametrize(
    ("name", "known", "floors", "reason"),
    [
        ("coffee.png", {"true_class": TRIPOD}, {}, "misclassified"),
        ("chelsea.png", {"subject": "cat"}, {}, "low_margin"),
        ("coffee.png", {"subject": "coffee"}, {"min_clean_confidence": 0.999}, "low_confidence"),
        ("coffee.png", {}, {}, "unknown_subject"),
    ],
)
def test_a_doubtful_photograph_is_put_back(name, known, floors, reason, classifier: Classifier, tmp_path: Path) -> None:
    made = make(photo(name, **known), classifier, tmp_path, **floors)
    assert isinstance(made, Unfit)
    assert made.reason == reason


def test_draws_go_on_until_a_photograph_is_fit_and_count_the_others(classifier: Classifier, tmp_path: Path) -> None:
    photos = [photo("chelsea.png", subject="cat"), photo("coffee.png"), photo("coffee.png", true_class=ESPRESSO)]
    drawn = draw_challenge(iter(photos), partial(make, classifier=classifier, tmp_path=tmp_path), max_draws=5)
    assert drawn.challenge.task.true_label == ESPRESSO
    assert drawn.redrawn == {"low_margin": 1, "unknown_subject": 1}


def test_a_source_without_a_fit_photograph_says_why(classifier: Classifier, tmp_path: Path) -> None:
    photos = (photo("chelsea.png", subject="cat") for _ in range(10))
    with pytest.raises(SourceError, match=r"none of 3 photographs made a challenge \(low_margin 3\)"):
        draw_challenge(photos, partial(make, classifier=classifier, tmp_path=tmp_path), max_draws=3)
    assert sum(1 for _ in photos) == 7, "no photograph is taken from the source only to be thrown away"
