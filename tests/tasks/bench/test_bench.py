"""The bench of attacks: the validator's own challenges and verdicts, the same for the same seed."""

from dataclasses import replace
from pathlib import Path

import pytest

from perturb.flows.engine.production_line import ProductionLine
from perturb.miner.answer import attack_answer
from perturb.miner.targets import TargetPool
from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import AttackError
from perturb.schemas.image import Pixels
from perturb.schemas.response import Response
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.sources.sample import SampleSource
from perturb.tasks.bench.bench import Models, draw_challenges, examine, files_of, summarise, worst
from tests.support.corpora import VALIDATOR
from tests.support.verification_rounds import SETTINGS, classifier

MODELS: Models = {"classifier": classifier(), "judge": NoJudge(), "settings": SETTINGS}


def challenges(count: int = 2, seed: int = 7) -> list[Challenge]:
    # Without a judge a source that knows no class needs subjects that are believed: NoJudge believes them.
    return list(draw_challenges(SampleSource().photos(seed=seed), count, seed=seed, **MODELS))


def test_the_verdict_is_that_of_production(tmp_path: Path) -> None:
    answers = {
        name: attack_answer(name, TargetPool(SETTINGS.classifier), budget_seconds=20) for name in ("pgd", "fgsm")
    }
    trials = [examine(one, name, answer, **MODELS) for one in challenges() for name, answer in answers.items()]
    line = ProductionLine(
        SETTINGS,
        photos=iter(()),
        judge=NoJudge(),
        keypair=VALIDATOR,
        corpus=Corpus(open_store(str(tmp_path))),
    )
    for trial in trials:
        response = Response(0, trial.attack, trial.response_ms, trial.body)
        (verdict,) = line.verify(trial.challenge, [response], {})
        assert trial.verdict is not None
        assert trial.verdict.model_dump_json() == verdict.model_dump_json()
    report = summarise(trials)
    assert report["pgd"]["challenges"] == 2
    assert report["pgd"]["accepted"] == sum(t.outcome == "accepted" for t in trials if t.attack == "pgd") / 2
    difference = report["fgsm"]["score_against_pgd"]["mean"]
    assert difference == pytest.approx(report["fgsm"]["score"]["mean"] - report["pgd"]["score"]["mean"])
    assert worst(trials).points == min(trial.points for trial in trials)
    assert {name.split(".", 1)[1] for name in files_of(trials[0])} == {"original.png", "perturbed.png"}


def test_the_same_seed_draws_the_same_challenges() -> None:
    first, again, other = challenges(), challenges(), challenges(seed=8)
    assert [one.task.task_id for one in first] == [one.task.task_id for one in again]
    assert [one.png for one in first] == [one.png for one in again]
    assert {one.task.task_id for one in first}.isdisjoint(one.task.task_id for one in other)


OWN_ATTACKS = """
import time
def raises(classifier, pixels, label, bounds, *, deadline, seed): return pixels[1 // 0]
def other_shape(classifier, pixels, label, bounds, *, deadline, seed): return pixels.transpose(2, 0, 1)
def other_dtype(classifier, pixels, label, bounds, *, deadline, seed): return pixels / 255
def hangs(classifier, pixels, label, bounds, *, deadline, seed):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "raised ZeroDivisionError"),
        ("other_shape", "channels last"),
        ("other_dtype", "np.rint(answer * 255).astype(np.uint8)"),
        ("hangs", "did not return within the challenge's 1 s"),
    ],
)
def test_own_attacks_that_cannot_be_used_score_nothing_and_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    (tmp_path / "bench_attacks.py").write_text(OWN_ATTACKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    (challenge,) = challenges(1)
    challenge = replace(challenge, task=challenge.task.model_copy(update={"timeout_ms": 1000}))
    answer = attack_answer(f"bench_attacks:{name}", TargetPool(SETTINGS.classifier), budget_seconds=1)
    trial = examine(challenge, f"bench_attacks:{name}", answer, **MODELS)
    assert (trial.outcome, trial.points) == ("attack_failed", 0.0)
    assert trial.failure is not None
    assert f"attack 'bench_attacks:{name}'" in trial.failure
    assert says in trial.failure


def test_an_attack_that_fails_scores_nothing_and_says_why() -> None:
    def failing(task: object, clean: Pixels, deadline: float) -> bytes:
        raise AttackError("attack 'mine' raised ValueError: no")

    trial = examine(challenges(1)[0], "mine", failing, **MODELS)
    assert (trial.outcome, trial.points, trial.failure) == ("attack_failed", 0.0, "attack 'mine' raised ValueError: no")
    report = summarise([trial])["mine"]
    assert report["outcomes"] == {"attack_failed": 1}
    assert (report["accepted"], report["quality"], report["levels_median"]) == (0.0, None, None)
    assert list(files_of(trial)) == [f"{trial.challenge.task.original_sha256[:32]}.original.png"]
