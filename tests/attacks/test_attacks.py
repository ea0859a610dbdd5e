"""The reference attacks on real photographs and the real classifier, judged by the validator's own verification."""

import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from perturb.attacks import ATTACKS, load_attack
from perturb.attacks.base import Problem
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import load_judge
from perturb.schemas.bounds import Bounds
from perturb.schemas.errors import SettingsError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import Settings, load_settings
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.pair import verify_pair

PHOTOS = {
    "moped": lambda: data.stereo_motorcycle()[0],
    "tripod": lambda: np.repeat(data.camera()[..., None], 3, axis=2),
}
DEFAULTS = Bounds()
PATIENT = 120.0


@cache
def embedded() -> tuple[Settings, Classifier]:
    chosen = load_settings(judge={"name": "none"}, classifier={"persistence": False})
    return chosen, load_classifier(chosen.classifier)


@cache
def challenge(photo: str) -> tuple[Pixels, int]:
    """A photograph at the classifier's size, and what the classifier sees in it."""
    _, classifier = embedded()
    pixels = classifier.prepare(PHOTOS[photo]())
    return pixels, int(classifier.logits(pixels[None])[0].argmax())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads on a busy machine spend their time waiting for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def attacked(name: str, photo: str, bounds: Bounds = DEFAULTS, *, seconds: float = PATIENT, seed: int = 7) -> Pixels:
    pixels, label = challenge(photo)
    deadline = time.monotonic() + seconds
    return load_attack(name)(embedded()[1], pixels, label, bounds, deadline=deadline, seed=seed)


def verdict_on(answer: Pixels, photo: str, bounds: Bounds = DEFAULTS) -> Verdict:
    chosen, classifier = embedded()
    pixels, label = challenge(photo)
    return verify_pair(
        encode_png(pixels),
        encode_png(answer),
        label=label,
        classifier=classifier,
        judge=load_judge(chosen.judge, cache=chosen.cache),
        settings=chosen,
        bounds=bounds,
    ).verdict


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", ATTACKS)
def test_answers_are_accepted_with_the_asked_margin(name: str, photo: str) -> None:
    untouched = challenge(photo)[0].copy()
    verdict = verdict_on(attacked(name, photo), photo)
    assert verdict.accepted, verdict.detail
    assert verdict.margin is not None
    assert verdict.margin >= DEFAULTS.min_margin
    assert np.array_equal(challenge(photo)[0], untouched)


@pytest.mark.parametrize("photo", PHOTOS)
def test_grid_attack_changes_few_values_by_one_level(photo: str) -> None:
    verdict = verdict_on(attacked("grid", photo), photo)
    size = challenge(photo)[0].size
    assert verdict.linf_levels == 1
    assert verdict.l0 is not None
    assert verdict.l0 < 0.1 * size
    # What one gradient's ranking needs, even when it may choose the number of values with hindsight.
    assert verdict.l0 < 0.8 * fewest_by_one_gradient(photo)


def fewest_by_one_gradient(photo: str) -> int:
    """How many values flip when they are taken in the order of the clean image's gradient; tried in steps of 10 %."""
    pixels, label = challenge(photo)
    problem = Problem(embedded()[1], pixels, label, DEFAULTS, time.monotonic() + PATIENT)
    low, high = problem.allowed_change(1)
    gradient, _ = problem.gradient(low * 0)
    moves = high.where(gradient > 0, low)
    order = (gradient * moves).flatten().argsort(descending=True)
    count = 100
    while count < pixels.size:
        change = (low * 0).flatten()
        change[order[:count]] = moves.flatten()[order[:count]]
        if problem.margins(problem.rounded(change.view_as(low))[None])[0] >= problem.goal:
            break
        count = int(1.1 * count)
    return count


@pytest.mark.parametrize("name", ["pgd", "grid"])
def test_seed_fixes_the_answer(name: str) -> None:
    assert np.array_equal(attacked(name, "tripod", seed=1), attacked(name, "tripod", seed=1))


def test_pgd_starts_where_the_seed_says() -> None:
    assert not np.array_equal(attacked("pgd", "tripod", seed=1), attacked("pgd", "tripod", seed=2))


@pytest.mark.parametrize("name", ATTACKS)
def test_larger_smallest_level_is_kept_to(name: str) -> None:
    bounds = Bounds(epsilon_min=2 / 255, epsilon=3 / 255)
    verdict = verdict_on(attacked(name, "moped", bounds), "moped", bounds)
    assert verdict.accepted, verdict.detail
    assert verdict.linf_levels == 2


@pytest.mark.parametrize("name", ATTACKS)
def test_black_and_white_areas_stay_in_range(name: str) -> None:
    """A contrast so hard that half of the values stand at 0 or 255, where only one direction is left."""
    _, classifier = embedded()
    hard = np.clip((classifier.prepare(data.stereo_motorcycle()[0]).astype(int) - 110) * 6, 0, 255).astype(np.uint8)
    assert np.isin(hard, (0, 255)).mean() > 0.5
    label = int(classifier.logits(hard[None])[0].argmax())
    answer = load_attack(name)(classifier, hard, label, DEFAULTS, deadline=time.monotonic() + PATIENT, seed=1)
    change = np.abs(answer.astype(int) - hard)
    assert 1 <= change.max() <= DEFAULTS.max_levels
    assert classifier.logits(answer[None])[0].argmax() != label


@pytest.mark.parametrize("name", ATTACKS)
def test_impossible_margin_gets_the_best_try(name: str) -> None:
    bounds = Bounds(epsilon=1 / 255, min_margin=1000)
    answer = attacked(name, "tripod", bounds)
    verdict = verdict_on(answer, "tripod", bounds)
    pixels, label = challenge("tripod")
    before, after = (embedded()[1].logits(image[None])[0] for image in (pixels, answer))
    assert np.abs(answer.astype(int) - pixels).max() == 1
    assert np.delete(after, label).max() - after[label] > np.delete(before, label).max() - before[label] + 2
    assert verdict.linf_levels == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_without_time_nothing_is_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the deadline has passed")

    monkeypatch.setattr(Problem, "gradient", refuse)
    assert np.array_equal(attacked(name, "tripod", seconds=-1), challenge("tripod")[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_no_step_begins_that_would_end_too_late(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only gradients move, 2 s each: with 9 s there is time for three of them and what is checked."""
    clock = [0.0]
    gradient = Problem.gradient

    def slow(self: Problem, *arguments: object) -> object:
        clock[0] += 2.0
        return gradient(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Problem, "gradient", slow)
    monkeypatch.setattr("perturb.attacks.base.clock", lambda: clock[0])
    pixels, label = challenge("tripod")
    load_attack(name)(embedded()[1], pixels, label, Bounds(min_margin=1000), deadline=9.0, seed=1)
    assert 2.0 <= clock[0] <= 9.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 400), st.floats(-3, 3)), min_size=1, max_size=12))
def test_the_best_of_what_was_offered_is_kept(offers: list[tuple[int, int, float]]) -> None:
    """`offers` are (level, number of values, margin)."""
    pixels, label = challenge("moped")
    bounds = Bounds(epsilon_min=2 / 255)
    problem = Problem(embedded()[1], pixels, label, bounds, np.inf)
    best = None
    for level, count, margin in offers:
        candidate = pixels.copy()
        middle = candidate.reshape(-1)[:count]
        middle[:] = np.where(middle < 128, middle + level, middle - level)
        problem.offer(candidate, margin)
        if not bounds.min_levels <= level <= bounds.max_levels:
            continue
        holds = margin >= problem.goal
        rank = (holds, margin > 0, -count * level**2 if holds else 0, margin)
        if best is None or rank > best[0]:
            best = (rank, candidate)
    assert np.array_equal(problem.answer, pixels if best is None else best[1])
    assert problem.solved == (best is not None and best[0][0])


def test_own_attack_is_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_attack.py").write_text(
        "def brighter(classifier, pixels, label, bounds, *, deadline, seed):\n    return pixels | 1\n\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_own_attack", raising=False)
    pixels, label = challenge("tripod")
    mine = load_attack("my_own_attack:brighter")
    assert np.array_equal(mine(embedded()[1], pixels, label, DEFAULTS, deadline=0.0, seed=1), pixels | 1)
    for wrong, complaint in {
        "my_own_attack:darker": "module 'my_own_attack' has no 'darker'",
        "my_own_attack:number": "is a int, not a function",
        "nowhere.at_all:attack": "cannot be imported",
        "pdg": "attack 'pdg' is not known; accepted: pgd, fgsm, mi-fgsm, grid, or module:function",
        "my_own_attack:": "is not known",
    }.items():
        with pytest.raises(SettingsError, match=complaint):
            load_attack(wrong)
