"""The judge on its real weights (converted once into the user's cache), and its contract on tiny random ones."""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import perturb.models._torchvision  # noqa: F401  # before transformers
from perturb.models.judge import gemma as gemma_weights
from perturb.models.judge.cache import JudgementCache
from perturb.models.judge.judge import LanguageJudge, load_judge
from perturb.models.judge.prompts import subject_words
from perturb.models.judge.scores import belongs_scores
from perturb.models.judge.trial import LabelledPair, area_under_curve, best_threshold, read_pairs, try_judge
from perturb.schemas.errors import ModelError, SettingsError
from perturb.schemas.settings import JudgeSettings, load_settings

MALAMUTE, TENCH, CASTLE, SPORTS_CAR, VIOLIN, BANANA = 249, 0, 483, 817, 889, 954
# Clear cases, chosen before any score was seen; none of them stands in a calibration file.
CLEAR = [
    (MALAMUTE, "animal", True),
    (TENCH, "animal", True),
    (CASTLE, "building", True),
    (SPORTS_CAR, "red car in the street", True),
    (VIOLIN, "instrument", True),
    (BANANA, "fruit", True),
    (MALAMUTE, "fruit", False),
    (TENCH, "red car in the street", False),
    (CASTLE, "insect", False),
    (SPORTS_CAR, "dog", False),
    (VIOLIN, "snake", False),
    (BANANA, "truck", False),
]


@pytest.fixture(scope="module")
def gemma() -> LanguageJudge:
    """The embedded judge with its weights from the usual cache, but without remembered judgements."""
    judge = load_judge(JudgeSettings(), cache=load_settings().cache)
    assert isinstance(judge, LanguageJudge)
    return judge.uncached()


@pytest.mark.slow
def test_gemma_answers_clear_cases(gemma: LanguageJudge) -> None:
    judged = gemma.belongs([(label, subject) for label, subject, _ in CLEAR])
    assert [judgement.holds for judgement in judged] == [expected for _, _, expected in CLEAR]
    assert gemma.sha256 == gemma_weights.gguf_sha256()


@pytest.mark.slow
def test_gemma_knows_twins_from_namesakes(gemma: LanguageJudge) -> None:
    maillots, cranes, fishes, far = (638, 639), (134, 517), (0, 1), (10, 400)
    judged = gemma.same_kind([maillots, cranes, fishes, far, (7, 7)])
    assert [judgement.holds for judgement in judged] == [True, False, False, False, True]
    assert gemma.same_kind([(639, 638)])[0].score == pytest.approx(judged[0].score, abs=1e-3)


@pytest.mark.slow
def test_a_score_does_not_depend_on_what_is_asked_beside_it(gemma: LanguageJudge) -> None:
    pairs = [(label, subject) for label, subject, _ in CLEAR[2:8]]
    priors = dict.fromkeys((subject for _, subject in pairs), -9.0)
    together = belongs_scores(gemma.model, pairs, priors=priors)
    alone = [belongs_scores(gemma.model, [pair], priors=priors)[0] for pair in pairs[:3]]
    backwards = belongs_scores(gemma.model, pairs[::-1], priors=priors)[::-1]
    assert alone == pytest.approx(together[:3], abs=1e-3)
    assert backwards == pytest.approx(together, abs=1e-3)


def test_likelihoods_agree_with_the_plain_forward(tiny: Path, tmp_path: Path) -> None:
    """Padding, shared beginnings and the cut to the target tokens' logits change nothing."""
    from transformers import LlamaForCausalLM

    judge = _tiny_judge(tiny, tmp_path)
    requests = [
        ("a dog: the fish", " of"),
        ("a", " category of"),
        ("a dog: the fish", " of the"),
        ("a category", " of"),
    ]
    found = judge.model.log_likelihoods(requests)
    reference = LlamaForCausalLM.from_pretrained(tiny)
    for (prompt, target), value in zip(requests, found, strict=True):
        head, tail = judge.model.encode(prompt), judge.model.encode(target)
        with torch.inference_mode():
            logs = reference(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        plain = sum(float(logs[len(head) - 1 + step, token]) for step, token in enumerate(tail))
        assert value == pytest.approx(plain, abs=1e-4)


def test_a_local_folder_is_a_judge_with_defaults_and_a_warning(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The path that a Hub id takes, too: Qwen2.5-1.5B-Instruct is loaded by the same calls."""
    with caplog.at_level(logging.WARNING):
        judge = _tiny_judge(tiny, tmp_path)
    assert "not calibrated" in caplog.text
    assert not judge.thresholds.calibrated
    assert judge.sha256 is not None
    assert len(judge.sha256) == 64
    (judgement,) = judge.belongs([(0, "fish")])
    assert judgement.score is not None
    settings = JudgeSettings(name=str(tiny), subject_threshold=judgement.score - 0.1, mismatch_threshold=2.0)
    lenient = load_judge(settings, cache=tmp_path)
    assert lenient.belongs([(0, "fish")])[0].holds
    assert not lenient.same_kind([(638, 639)])[0].holds


def test_judgements_are_asked_once(tiny: Path, tmp_path: Path) -> None:
    first = _tiny_judge(tiny, tmp_path)
    asked = first.belongs([(0, "fish"), (0, "Fish "), (1, "dog")])
    assert first.cache is not None
    assert first.cache.misses == 4  # two pairs and two subjects' priors
    later = _tiny_judge(tiny, tmp_path)
    assert later.belongs([(0, "fish"), (0, "Fish "), (1, "dog")]) == asked
    assert later.cache is not None
    assert (later.cache.hits, later.cache.misses) == (2, 0)


def test_other_weights_or_prompts_share_no_judgements(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    JudgementCache(path, model="m", template="1").put("belongs", {(0, "fish"): 1.0})
    for other in (JudgementCache(path, model="n", template="1"), JudgementCache(path, model="m", template="2")):
        assert other.get("belongs", [(0, "fish")]) == {}
    same = JudgementCache(path, model="m", template="1")
    assert same.get("same_kind", [(0, "fish")]) == {}
    assert same.get("belongs", [(0, "fish"), (1, "fish")]) == {(0, "fish"): 1.0}


def _write_many(path: Path, offset: int) -> int:
    cache = JudgementCache(path, model="m", template="1")
    for label in range(20):
        cache.put("belongs", {(label, f"word {number}"): float(label) for number in range(offset, offset + 5)})
    return len(cache.get("belongs", [(label, f"word {offset}") for label in range(20)]))


@pytest.mark.slow
def test_two_processes_write_one_cache(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        seen = list(pool.map(_write_many, [path, path], [0, 3]))
    assert seen == [20, 20]
    assert len(JudgementCache(path, model="m", template="1")) == 20 * 8


def test_a_spoilt_cache_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "judgements.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ModelError, match=r"judgements\.sqlite.*PERTURB_CACHE_DIR"):
        JudgementCache(path, model="m", template="1")


def test_weights_that_give_nan_are_refused(tiny: Path, tmp_path: Path) -> None:
    judge = _tiny_judge(tiny, tmp_path).uncached()
    with torch.no_grad():
        kept = judge.model.head.clone()
        judge.model.head.fill_(float("nan"))
        try:
            with pytest.raises(ModelError, match="unusable"):
                judge.belongs([(0, "fish")])
        finally:
            judge.model.head.copy_(kept)


def test_without_a_judge() -> None:
    judge = load_judge(JudgeSettings(name="none"), cache=Path("never-made"))
    assert (judge.name, judge.sha256) == ("none", None)
    assert [(one.score, one.holds) for one in judge.belongs([(0, "castle")])] == [(None, True)]
    assert [one.holds for one in judge.same_kind([(3, 3), (638, 639)])] == [True, False]
    assert not Path("never-made").exists()


def test_what_cannot_be_loaded_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty.*PERTURB_JUDGE__NAME=none"):
        load_judge(JudgeSettings(name=str(tmp_path / "empty")), cache=tmp_path)


def test_a_conversion_that_dies_leaves_nothing_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(workspace: Path, folder: Path, tell: object) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    def succeed(workspace: Path, folder: Path, tell: object) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"whole")

    monkeypatch.setattr(gemma_weights, "_convert", die)
    with pytest.raises(ModelError, match=r"disk full.*PERTURB_CACHE_DIR"):
        gemma_weights.gemma_folder(tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(gemma_weights, "_convert", succeed)
    folder = gemma_weights.gemma_folder(tmp_path)
    monkeypatch.setattr(gemma_weights, "_convert", die)
    assert gemma_weights.gemma_folder(tmp_path) == folder
    assert (folder / "model.safetensors").read_bytes() == b"whole"


def test_labels_outside_the_classes_are_named(tiny: Path, tmp_path: Path) -> None:
    judge = _tiny_judge(tiny, tmp_path)
    with pytest.raises(ModelError, match=r"1000.*0 to 999"):
        judge.belongs([(1000, "fish")])
    with pytest.raises(ModelError, match="-1"):
        judge.same_kind([(0, -1)])


def test_subjects_are_read_as_words(tiny: Path, tmp_path: Path) -> None:
    assert subject_words("  Red_CAR-in\tthe street ") == "red car in the street"
    assert subject_words("__--") == ""
    assert len(subject_words("word " * 500).split()) == 12
    (judgement,) = _tiny_judge(tiny, tmp_path).belongs([(0, "--")])
    assert (judgement.score, judgement.holds) == (None, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("class_index,label,is_member\n0,tench,1\n", "'target'"),
        ("class_index,label,target,is_member\n0,tench,fish,1\n1000,x,fish,0\n", "line 3: class_index is '1000'"),
        ("class_index,label,target,is_member\n0,tench,fish,yes\n", "is_member is 'yes'"),
        ("class_index,label,target,is_member\n0,tench,,1\n", "target is empty"),
        ("class_index,label,target,is_member\n0,tench,fish,1\n", "one with is_member 0"),
        ("", "'class_index', 'label', 'target', 'is_member'"),
    ],
)
def test_a_wrong_pairs_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(SettingsError, match=named):
        read_pairs(path)


def test_a_trial_reports_what_was_measured(tiny: Path, tmp_path: Path) -> None:
    pairs = [LabelledPair(index, target, index % 2 == 0) for index in range(6) for target in ("dog", "fish")]
    judge = _tiny_judge(tiny, tmp_path)
    trial = try_judge(pairs, judge)
    assert (trial.pairs, trial.members) == (12, 6)
    assert trial.best_accuracy >= trial.accuracy
    assert trial.pairs_per_second > 0
    assert len(trial.worst) == 10
    assert judge.cache is not None
    assert len(judge.cache) == 0
    with pytest.raises(ModelError, match="none"):
        try_judge(pairs, load_judge(JudgeSettings(name="none"), cache=tmp_path))


def test_auc_and_threshold_on_known_scores() -> None:
    assert area_under_curve([1, 2, 3, 4], [False, False, True, True]) == 1
    assert area_under_curve([1, 1, 1, 1], [False, True, False, True]) == 0.5
    assert best_threshold([0, 1, 4, 5], [False, False, True, True]) == 2.5


def _tiny_judge(folder: Path, cache: Path) -> LanguageJudge:
    judge = load_judge(JudgeSettings(name=str(folder)), cache=cache)
    assert isinstance(judge, LanguageJudge)
    return judge
