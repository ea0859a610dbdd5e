"""An attack on challenges drawn as the validator draws them: every gate, the judge, the time and the score.

trials = [examine(challenge, answers, ...) for challenge in challenges]
report = summarise(trials)
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypedDict

import numpy as np

from perturb.attacks.observer import AttackStopped
from perturb.models.bootstrap import interval_of
from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.schemas.challenge import Challenge, Photo, Task, Terms
from perturb.schemas.errors import AttackError
from perturb.schemas.image import Pixels
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Score, Verdict
from perturb.tasks.bench.time_limit import time_limit
from perturb.tasks.challenge.draw import draw_challenge
from perturb.tasks.challenge.package import make_challenge
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score

Answer = Callable[[Task, Pixels, float], bytes]
"""What a miner does: (task, clean uint8 (height, width, 3), deadline on time.monotonic) -> the body to send."""


class Models(TypedDict):
    """What verifies: the network, the judge and the settings."""

    classifier: Classifier
    judge: Judge
    settings: Settings


_FAILED = "attack_failed"


@dataclass(frozen=True)
class Trial:
    """One attack on one challenge, as the validator sees it. `failure` says why there is no body to verify."""

    challenge: Challenge
    attack: str
    body: bytes
    response_ms: float
    verdict: Verdict | None
    score: Score | None
    failure: str | None = None

    @property
    def outcome(self) -> str:
        """The verdict's outcome, or `attack_failed`."""
        return _FAILED if self.verdict is None else self.verdict.outcome

    @property
    def points(self) -> float:
        """The score, 0 for everything that is not accepted."""
        return 0.0 if self.score is None else self.score.score


def draw_challenges(
    photos: Iterator[Photo], count: int, *, classifier: Classifier, judge: Judge, settings: Settings, seed: int
) -> Iterator[Challenge]:
    """Yield challenges as the validator draws them, with salts that follow from `seed`, so that attacks repeat.

    Raises SourceError where the source has no more that fit.
    """
    make = partial(make_challenge, classifier=classifier, judge=judge, settings=settings, now=datetime.now(UTC))
    for number in range(count):
        drawn = draw_challenge(photos, make, max_draws=settings.challenge.max_draws).challenge
        salt = hashlib.sha256(f"{seed}|{number}".encode()).hexdigest()[:32]
        terms = {name: getattr(drawn.task, name) for name in Terms.model_fields} | {"task_salt": salt}
        yield replace(drawn, round_id=f"bench-{seed}-{number}", task=Terms(**terms).as_task())


def examine(
    challenge: Challenge, attack: str, answer: Answer, *, classifier: Classifier, judge: Judge, settings: Settings
) -> Trial:
    """Return what the validator says of the answer, which has the challenge's time. An attack that fails scores 0.

    So does one that does not return in that time; it is ended then.
    """
    seconds = challenge.task.timeout_ms / 1000
    began = time.monotonic()
    try:
        with time_limit(seconds):
            body = answer(challenge.task, challenge.pixels, began + seconds)
    except AttackError as error:
        return Trial(challenge, attack, b"", (time.monotonic() - began) * 1000, None, None, str(error))
    except AttackStopped:
        late = f"attack {attack!r} did not return within the challenge's {seconds:g} s; return before `deadline`"
        return Trial(challenge, attack, b"", (time.monotonic() - began) * 1000, None, None, late)
    milliseconds = (time.monotonic() - began) * 1000
    response = Response(
        miner_uid=0,
        miner_hotkey=attack,
        response_ms=milliseconds,
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )
    (verdict,) = verify(challenge, [response], classifier=classifier, judge=judge, settings=settings)
    points = score(verdict, challenge.task, milliseconds, policy=settings.policy)
    return Trial(challenge, attack, body, milliseconds, verdict, points)


def summarise(trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Return for each attack outcomes, share accepted, means of the scores, medians of levels, changed share, time.

    Where there are several attacks on the same challenges, each but the first has the mean difference of its scores
    from the first attack's, with a 95 % interval by bootstrap over the challenges.
    """
    by_attack: dict[str, list[Trial]] = {}
    for trial in trials:
        by_attack.setdefault(trial.attack, []).append(trial)
    first = next(iter(by_attack), "")
    report = {name: _summary(own) for name, own in by_attack.items()}
    for name, own in by_attack.items():
        if name != first:
            differences = [a.points - b.points for a, b in zip(own, by_attack[first], strict=True)]
            report[name][f"score_against_{first}"] = interval_of(differences)
    return report


def _summary(trials: Sequence[Trial]) -> dict[str, Any]:
    accepted = [trial for trial in trials if trial.verdict is not None and trial.verdict.accepted]
    found = [trial.verdict for trial in accepted if trial.verdict is not None]
    points = [trial.score for trial in accepted if trial.score is not None]
    count = len(trials)
    return {
        "challenges": count,
        "accepted": len(accepted) / count,
        "outcomes": dict(Counter(trial.outcome for trial in trials).most_common()),
        "score": interval_of([trial.points for trial in trials]),
        "quality": float(np.mean([one.quality for one in points])) if points else None,
        "speed": float(np.mean([one.speed for one in points])) if points else None,
        "levels_median": _median([one.linf_levels for one in found]),
        "changed_share_median": _median([one.changed_share for one in found]),
        "milliseconds_median": _median([trial.response_ms for trial in trials]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def worst(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the lowest score; of those that were refused, the slowest."""
    return min(trials, key=lambda trial: (trial.points, -trial.response_ms))


def files_of(trial: Trial) -> Mapping[str, bytes]:
    """Return the files of a trial by name, as `perturb score` and webdataset read them."""
    name = trial.challenge.task.original_sha256[:32]
    files = {f"{name}.original.png": trial.challenge.png}
    if trial.body:
        files[f"{name}.perturbed.png"] = trial.body
    return files
