"""The reference attacks on real photographs and the real classifier, judged by the validator's own verification."""

import sys
import time
from collections.abc import Callable, Iterator
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
from perturb.attacks.observer import AttackStopped, Candidate, watched_by
from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import load_judge
from perturb.schemas.bounds import Bounds
from perturb.schemas.errors import AttackError, SettingsError
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


def test_grid_has_another_answer_of_the_same_quality_for_each_seed() -> None:
    pixels, _ = challenge("moped")
    answers = [attacked("grid", "moped", seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])
    assert verdict_on(answers[2], "moped").accepted
    changed = [int((answer != pixels).sum()) for answer in answers]
    assert max(changed) <= 1.1 * min(changed)


def test_grid_ends_where_nothing_flips_and_there_is_no_deadline() -> None:
    """A margin that no change of one level reaches; then the last tries are as many as there are."""
    out_of_reach = Bounds(epsilon=1 / 255, min_margin=1e6)
    answer = attacked("grid", "moped", out_of_reach, seconds=float("inf"))
    assert np.abs(answer.astype(int) - challenge("moped")[0]).max() <= 1


@pytest.mark.parametrize("slow_step", [1, 2, 4])
def test_one_slow_step_does_not_end_the_grid_attack(slow_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only gradients move: 0.2 s each, and 1.6 s the one during which another program had the cores."""
    clock, steps = [0.0], [0]
    gradient = Problem.gradient

    def moving(self: Problem, *arguments: object) -> object:
        steps[0] += 1
        clock[0] += 1.6 if steps[0] == slow_step else 0.2
        return gradient(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Problem, "gradient", moving)
    monkeypatch.setattr("perturb.attacks.base.clock", lambda: clock[0])
    pixels, label = challenge("moped")
    answer = load_attack("grid")(embedded()[1], pixels, label, DEFAULTS, deadline=3.0, seed=1)
    assert verdict_on(answer, "moped").accepted
    assert clock[0] <= 3.0


def test_an_attack_that_shares_its_cores_works_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of two threads takes a second in which the process gets half of its cores, or all of them."""
    wall, cpu, share = [0.0], [0.0], [1.0]
    monkeypatch.setattr("perturb.attacks.base.clock", lambda: wall[0])
    monkeypatch.setattr("time.process_time", lambda: cpu[0])
    pixels, label = challenge("moped")

    def threads_after_two_steps() -> int:
        problem = Problem(embedded()[1], pixels, label, DEFAULTS, deadline=wall[0] + 1000)
        for _ in range(2):
            assert problem.time_left()
            problem.gradient(torch.zeros_like(problem.allowed_change(1)[0]))
            wall[0], cpu[0] = wall[0] + 1, cpu[0] + share[0] * torch.get_num_threads()
        assert problem.time_left()
        return torch.get_num_threads()

    torch.set_num_threads(2)
    assert threads_after_two_steps() == 2
    share[0] = 0.5
    assert threads_after_two_steps() == 1
    share[0] = 1.0
    assert threads_after_two_steps() == 1, "the attack before it knew nothing better"
    assert threads_after_two_steps() == 2, "one thread had a core for itself, so all are tried again"


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


BROKEN_MODULES = {
    "syntax": ("def attack(:\n", "SyntaxError"),
    "null": ("attack = 1\0\n", "cannot be imported"),
    "exits": ("import sys\nsys.exit('usage: me')\n", "SystemExit: usage: me"),
    "raises": ("1 / 0\n", r"ZeroDivisionError: division by zero \(.*own_raises.py:1\)"),
    "attribute": ("import os\nos.no_such\n", "cannot be imported: AttributeError"),
    "lacks": ("import foolbox_not_here\n", r"No module named 'foolbox_not_here' \(.*own_lacks.py:1\)"),
}
BAD_ATTACKS = """
import numpy as np
import torch
from PIL import Image
CALL = "classifier, pixels, label, bounds, *, deadline, seed"
RETURNS = {
    "brighter": lambda pixels: pixels | 1,
    "in_place": lambda pixels: np.bitwise_or(pixels, 1, out=pixels),
    "floats": lambda pixels: pixels.astype(np.float32) / 255,
    "doubles": lambda pixels: pixels.astype(np.float64),
    "negative": lambda pixels: pixels.astype(np.int16) - 300,
    "nan": lambda pixels: np.full(pixels.shape, np.nan),
    "flags": lambda pixels: pixels > 3,
    "tensor": lambda pixels: torch.from_numpy(pixels),
    "picture": lambda pixels: Image.fromarray(pixels),
    "channels_first": lambda pixels: pixels.transpose(2, 0, 1),
    "batch": lambda pixels: pixels[None],
    "grey": lambda pixels: pixels[..., 0],
    "nothing": lambda pixels: None,
    "pair": lambda pixels: (pixels, True),
    "empty": lambda pixels: np.zeros(0),
    "raises": lambda pixels: 1 // 0,
    "exits": lambda pixels: exit(3),
}
def made(act):
    return lambda classifier, pixels, label, bounds, *, deadline, seed: act(pixels)
globals().update({name: made(act) for name, act in RETURNS.items()})
number = 3
def old(classifier, pixels, label, bounds): return pixels
async def later(classifier, pixels, label, bounds, *, deadline, seed): return pixels
class Mine:
    def __call__(self, classifier, pixels, label, bounds, *, deadline, seed): return pixels | 1
instance = Mine()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of a miner on the import path: own_attacks, and a module for each of BROKEN_MODULES."""
    (tmp_path / "own_attacks.py").write_text(BAD_ATTACKS)
    for name, (text, _) in BROKEN_MODULES.items():
        (tmp_path / f"own_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_attacks", None)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["brighter", "in_place", "instance"])
def test_own_attack_is_one_function(name: str) -> None:
    pixels, label = challenge("tripod")
    untouched = pixels.copy()
    answer = load_attack(f"own_attacks:{name}")(embedded()[1], pixels, label, DEFAULTS, deadline=0.0, seed=1)
    assert np.array_equal(answer, untouched | 1)
    assert np.array_equal(pixels, untouched)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "sentence"),
    {
        "floats": r"float32 \(224, 224, 3\) with values .*: np.rint\(answer \* 255\).astype\(np.uint8\)",
        "doubles": r"float64 .*: np.rint\(answer\).astype",
        "negative": r"int16 .* with values -300 to .*clip",
        "nan": "float64 .*clip",
        "flags": r"bool \(224, 224, 3\); return",
        "tensor": r"torch.Tensor; return .*answer.detach\(\).cpu\(\).numpy\(\)",
        "picture": r"PIL.Image.Image; .*np.asarray\(answer\)",
        "channels_first": r"uint8 \(3, 224, 224\) .*answer.transpose\(1, 2, 0\)",
        "batch": r"uint8 \(1, 224, 224, 3\) .*answer\[0\]",
        "grey": r"uint8 \(224, 224\) .*shape of the clean image",
        "nothing": "returned None; return the perturbed image .* also where nothing flipped",
        "pair": "a tuple of 2; return .* without anything beside it",
        "empty": r"float64 \(0,\); return",
        "raises": r"raised ZeroDivisionError: .* \(.*own_attacks.py:\d+\)",
        "exits": "raised SystemExit: 3",
    }.items(),
)
def test_what_an_own_attack_returns_is_checked(name: str, sentence: str) -> None:
    pixels, label = challenge("tripod")
    with pytest.raises(AttackError, match=f"attack 'own_attacks:{name}' .*{sentence}"):
        load_attack(f"own_attacks:{name}")(embedded()[1], pixels, label, DEFAULTS, deadline=0.0, seed=1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own_attacks:darker", "module 'own_attacks' has no 'darker'"),
        ("own_attacks:number", "is of type int, not a function"),
        ("own_attacks:old", r"cannot be called as attack\(classifier, .*deadline"),
        ("own_attacks:later", "async function"),
        ("own_attacks:Mine", "is a class; name a function, or an instance"),
        ("own_attacks:", "is not known"),
        ("nowhere.at_all:attack", "cannot be imported: No module named 'nowhere'"),
        ("own_attacks.deeper:attack", "cannot be imported"),
        ("pdg", "attack 'pdg' is not known; accepted: pgd, fgsm, mi-fgsm, grid, or module:function"),
        ("./plug/mine.py:attack", "names a file; give the module's name"),
        ("mine.py:attack", "names a file"),
        (r"C:\plug\mine.py:attack", "names a file"),
        (".mine:attack", "names a file"),
        *((f"own_{name}:attack", sentence) for name, (_, sentence) in BROKEN_MODULES.items()),
    ],
)
def test_attacks_that_cannot_be_loaded(name: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_attack(name)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_watcher_sees_every_candidate_and_may_end_the_attack(name: str) -> None:
    _, classifier = embedded()
    pixels, label = challenge("moped")
    seen: list[Candidate] = []

    def run(watch: Callable[[Candidate], None]) -> Pixels:
        with watched_by(watch):
            return load_attack(name)(classifier, pixels, label, DEFAULTS, deadline=time.monotonic() + PATIENT, seed=0)

    answer = run(seen.append)
    assert any(np.array_equal(one.pixels, answer) for one in seen)
    for one in seen:
        logits = classifier.logits(one.pixels[None])[0]
        assert one.logits is not None
        assert np.allclose(one.logits, logits, atol=1e-3)
        assert one.changed == int((one.pixels != pixels).sum())
        assert one.holds <= one.inside
    stopped: list[Candidate] = []

    def stop(candidate: Candidate) -> None:
        stopped.append(candidate)
        raise AttackStopped

    with pytest.raises(AttackStopped):
        run(stop)
    assert len(stopped) == 1
    unwatched = load_attack(name)(classifier, pixels, label, DEFAULTS, deadline=time.monotonic() + PATIENT, seed=0)
    assert np.array_equal(unwatched, answer), "watching changes nothing"
