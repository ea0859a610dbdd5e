"""What a judge knows before it is asked: the tables of its labels, their files, and the scores of the package."""

import dataclasses
import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.models.judge import gemma as gemma_weights
from perturb.models.judge import judge as judge_module
from perturb.models.judge import preparation
from perturb.models.judge.cache import JudgementCache
from perturb.models.judge.judge import LanguageJudge, load_judge
from perturb.models.judge.label_tables import (
    LIMIT_STEPS,
    SHIPPED,
    LabelTables,
    load_tables,
    other_tables,
    pair_number,
    tables_path,
    word_variants,
)
from perturb.models.judge.preparation import precompute, prepare, undecided
from perturb.models.judge.prompts import subject_words
from perturb.models.judge.scores import belongs_scores, own_words, reference_prefixes, same_kind_scores, subject_priors
from perturb.models.labels import imagenet_label
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import JudgeSettings, load_settings
from tests.support.commands import perturb

SOME = random.Random(5)
PAIRS = [(a, a + SOME.randint(1, 12)) for a in SOME.sample(range(980), 40)] + [(638, 639), (134, 517), (264, 474)]
SUBJECTS = ["dog", "fish", "a", "red car in the street", "tench"]


@pytest.fixture(scope="module")
def unprepared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageJudge:
    judge = load_judge(JudgeSettings(name=str(tiny)), cache=tmp_path_factory.mktemp("cache"))
    assert isinstance(judge, LanguageJudge)
    return judge.uncached()


@pytest.fixture(scope="module")
def prepared(unprepared: LanguageJudge, tmp_path_factory: pytest.TempPathFactory) -> LanguageJudge:
    judge = unprepared.uncached()
    judge.prepare(tmp_path_factory.mktemp("prepared"))
    return judge


def _tables(judge: LanguageJudge) -> LabelTables:
    assert judge.tables is not None
    return judge.tables


def test_preparation_changes_no_answer(unprepared: LanguageJudge, prepared: LanguageJudge) -> None:
    middle = float(np.median([_tables(prepared).limit(*pair) for pair in PAIRS]))
    for judge in (unprepared, prepared):
        judge.thresholds = dataclasses.replace(judge.thresholds, same_kind=middle - 1e-3)
    plain, quick = unprepared.same_kind(PAIRS), prepared.same_kind(PAIRS)
    assert {found.limit for found in quick} == {True, False}
    assert [(found.holds, found.limit) for found in quick] == [(found.holds, found.limit) for found in plain]
    assert [found.score for found in quick] == pytest.approx([found.score for found in plain], abs=1e-3)
    asked = [(label, subject) for label, _ in PAIRS[:8] for subject in SUBJECTS]
    assert [found.score for found in prepared.belongs(asked)] == pytest.approx(
        [found.score for found in unprepared.belongs(asked)], abs=1e-3
    )


def test_no_score_exceeds_its_limit(prepared: LanguageJudge) -> None:
    for pair, found in zip(PAIRS, same_kind_scores(prepared.model, PAIRS), strict=True):
        assert found.score <= found.limit + 1e-5
        assert _tables(prepared).limit(*pair) == pytest.approx(found.limit, abs=1 / LIMIT_STEPS)
        assert _tables(prepared).overlap(*pair) >= found.score - 1e-4


def test_a_killed_preparation_goes_on_where_it_was(
    unprepared: LanguageJudge, prepared: LanguageJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(state: str) -> None:
        if "40%" in state:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(unprepared.model, tmp_path, tell=killed)
    read: list[int] = []
    monkeypatch.setattr(preparation, "_read_labels", _counted(preparation._read_labels, read))
    found = prepare(unprepared.model, tmp_path)
    assert read == list(range(500, NUM_CLASSES))
    for field in dataclasses.fields(found):
        one, other = getattr(found, field.name), getattr(_tables(prepared), field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one.astype(float), other.astype(float), atol=1)
            np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=1e-3, atol=2e-3 + one.itemsize % 4)
        else:
            assert one == other
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == [
        tables_path(tmp_path, model=unprepared.model.sha256).name
    ]


def _counted(read_labels: Callable[..., None], read: list[int]) -> Callable[..., None]:
    def counted(model: object, labels: range, *others: object) -> None:
        read.extend(labels)
        read_labels(model, labels, *others)

    return counted


@pytest.mark.slow
def test_scores_that_were_computed_before_are_looked_up(prepared: LanguageJudge, tmp_path: Path) -> None:
    """All pairs that the limits do not decide, and no other, need the model; a kill loses what one step computed."""
    limits = np.zeros_like(_tables(prepared).limits)
    limits[np.random.default_rng(3).choice(len(limits), 300, replace=False)] = LIMIT_STEPS
    start, threshold = dataclasses.replace(_tables(prepared), limits=limits), 0.9
    wanted = undecided(start, threshold)
    assert len(wanted) == 300
    told: list[str] = []

    def killed(state: str) -> None:
        told.append(state)
        if "subjects 50%" in state:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompute(prepared.model, tmp_path, start=start, threshold=threshold, tell=killed)
    assert any(f"scoring {len(wanted)} of 499500 pairs" in state and "s left" in state for state in told)
    found = precompute(prepared.model, tmp_path, threshold=threshold)
    assert np.isfinite(found.name_scores).all()
    judge = LanguageJudge(
        dataclasses.replace(prepared.model, head=prepared.model.head * np.nan),
        cache=None,
        thresholds=dataclasses.replace(prepared.thresholds, same_kind=threshold),
        tables=found,
    )
    exact = [score.score for score in same_kind_scores(prepared.model, wanted[:20])]
    assert [found.score(*pair) for pair in wanted[:20]] == pytest.approx(exact, abs=1e-3)
    assert len(judge.same_kind([*wanted, *PAIRS])) == len(wanted) + len(PAIRS)
    (own_name,) = judge.belongs([(0, "Tench")])
    assert own_name.score == pytest.approx(prepared.belongs([(0, "tench")])[0].score, abs=1e-3)


def test_tables_of_other_weights_or_prompts_are_not_used(
    prepared: LanguageJudge, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tables_path(tmp_path, model=prepared.model.sha256)
    _tables(prepared).save(path)
    assert load_tables(path, model=prepared.model.sha256) is not None
    assert load_tables(path, model="0" * 64) is None
    assert load_tables(tmp_path / "missing.npz", model=prepared.model.sha256) is None
    JudgementCache(tmp_path / "judgements.sqlite", model="m", template="1").put("belongs", {(0, "fish"): 1.0})
    other = tmp_path / "judge-000000000000-0-00000000.labels.npz"
    dataclasses.replace(_tables(prepared), template="0").save(other)
    assert load_tables(other, model=prepared.model.sha256) is None
    assert other_tables(tmp_path, model=prepared.model.sha256) == [other]
    from perturb.tasks.monitor.doctor import _check_judge

    said = _check_judge(load_settings(judge={"name": str(tiny)}, cache_dir=tmp_path))
    assert "labels prepared" in said
    assert other.name in said
    assert "1 judgements in" in said


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), length=st.integers(1, 4000), cut=st.booleans(), data=st.randoms())
def test_damaged_tables_are_named_and_not_used(
    prepared: LanguageJudge, whole: bytes, tmp_path_factory: pytest.TempPathFactory, place: float, length: int,
    cut: bool, data: random.Random,
) -> None:  # fmt: skip
    start = int(place * len(whole))
    broken = whole[:start] if cut else whole[:start] + data.randbytes(length) + whole[start + length :]
    path = tmp_path_factory.mktemp("damaged") / "x.labels.npz"
    path.write_bytes(broken)
    found = load_tables(path, model=prepared.model.sha256)
    if found is not None:  # Some bytes of an archive mean nothing.
        assert all(
            np.array_equal(getattr(found, field.name), getattr(_tables(prepared), field.name), equal_nan=True)
            for field in dataclasses.fields(found)
            if field.name not in ("model", "template")
        )


@pytest.fixture(scope="module")
def whole(prepared: LanguageJudge, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "x.labels.npz"
    _tables(prepared).save(path)
    return path.read_bytes()


def test_a_damaged_package_file_is_named_and_computed_anew(
    tiny: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "gemma-3-270m.labels.npz"
    package.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(judge_module, "SHIPPED", package)
    with caplog.at_level(logging.WARNING):
        judge = load_judge(JudgeSettings(name=str(tiny)), cache=tmp_path)
    assert f"the judge's tables {package} are damaged" in caplog.text
    assert isinstance(judge, LanguageJudge)
    assert judge.tables is None
    judge.prepare(tmp_path)
    assert judge.tables is not None


def test_places_of_pairs_and_words() -> None:
    rows, columns = np.triu_indices(NUM_CLASSES, 1)
    some = SOME.sample(range(len(rows)), 2000)
    assert [pair_number(int(columns[n]), int(rows[n])) for n in some] == some
    for one, other in PAIRS:
        words = own_words(imagenet_label(other).name, beside=imagenet_label(one).name)
        assert not words or (other, words) in word_variants()


def test_the_command_needs_something_to_do(tiny: Path, tmp_path: Path) -> None:
    ran = perturb("judge", cwd=tmp_path)
    assert ran.returncode == 2
    assert "--precompute" in ran.stderr


@pytest.mark.slow
def test_the_command_prepares_a_judge(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {
        "PERTURB_JUDGE__NAME": str(tiny), "PERTURB_JUDGE__MISMATCH_THRESHOLD": "2", "PERTURB_CACHE_DIR": str(cache)
    }  # fmt: skip
    ran = perturb("judge", "--precompute", "--json", cwd=tmp_path, **environment)
    assert ran.returncode == 0, ran.stderr
    assert '"decided_by_limit": 499500' in ran.stdout
    assert len(list(cache.glob("*.labels.npz"))) == 1


@pytest.mark.slow
def test_the_package_holds_what_the_weights_say() -> None:
    """A random sample of the package's scores, limits and priors, recomputed without tables."""
    judge = load_judge(JudgeSettings(), cache=load_settings().cache)
    assert isinstance(judge, LanguageJudge)
    tables = load_tables(SHIPPED, model=gemma_weights.gguf_sha256())
    assert tables is not None
    open_pairs = undecided(tables, judge.thresholds.same_kind)
    assert all(tables.score(*pair) is not None for pair in open_pairs)
    chance = random.Random()
    pairs = chance.sample(open_pairs, 12) + [tuple(sorted(chance.sample(range(NUM_CLASSES), 2))) for _ in range(12)]
    for pair, found in zip(pairs, same_kind_scores(judge.model, pairs), strict=True):
        assert tables.limit(*pair) == pytest.approx(found.limit, abs=1e-3), pair
        assert tables.score(*pair) in (None, pytest.approx(found.score, abs=1e-3)), pair
    labels = chance.sample(range(NUM_CLASSES), 6)
    subjects = [subject_words(imagenet_label(label).name) for label in labels]
    priors = subject_priors(reference_prefixes(judge.model), subjects)
    assert tables.name_priors[labels].tolist() == pytest.approx(priors, abs=1e-3)
    scores = belongs_scores(
        judge.model, list(zip(labels, subjects, strict=True)), priors=dict(zip(subjects, priors, strict=True))
    )
    assert tables.name_scores[labels].tolist() == pytest.approx(scores, abs=2e-3)
