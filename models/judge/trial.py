"""The accuracy of a judge on labelled pairs, for `perturb judge --pairs` and for the calibration of thresholds."""

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from perturb.models.judge.judge import Judge, LanguageJudge
from perturb.models.labels import imagenet_label
from perturb.schemas.errors import ModelError, SettingsError
from perturb.schemas.imagenet import NUM_CLASSES

COLUMNS = ("class_index", "label", "target", "is_member")


@dataclass(frozen=True)
class LabelledPair:
    """One line of a pairs file: whether ImageNet class `class_index` belongs to the broad word `target`."""

    class_index: int
    target: str
    is_member: bool


@dataclass(frozen=True)
class JudgedPair:
    """A pair with its score. `distance` to the threshold is positive on the wrong side, negative on the right side."""

    class_index: int
    label: str
    target: str
    is_member: bool
    score: float
    distance: float


@dataclass(frozen=True)
class Trial:
    """The outcome over a pairs file.

    `accuracy` is that of the scores at the judge's own threshold, `best_accuracy` at the one that fits these pairs
    best. `decided_accuracy` is that of the judge's decisions, for which WordNet may say yes as well. `auc` is the
    probability that a member scores above a non-member. `pairs_per_second` is measured without cached judgements, after
    the priors of the subjects, which are computed once. `worst` holds at most ten pairs, those on the wrong side first;
    `scores` are in the file's order.
    """

    judge: str
    judge_sha256: str
    pairs: int
    members: int
    threshold: float
    calibrated: bool
    accuracy: float
    decided_accuracy: float
    auc: float
    best_threshold: float
    best_accuracy: float
    pairs_per_second: float
    worst: tuple[JudgedPair, ...]
    scores: tuple[float, ...]


def read_pairs(path: Path) -> list[LabelledPair]:
    """Return the pairs of a CSV file with the columns class_index, label, target and is_member (0 or 1).

    Raises SettingsError that names a missing column, or the line and the invalid value.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise SettingsError(
                    f"{path} has no column {', '.join(map(repr, missing))}; a pairs file is a CSV with the columns "
                    + ", ".join(COLUMNS)
                )
            pairs = [_pair(row, path, reader.line_num) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}; give a CSV with the columns {', '.join(COLUMNS)}"
        ) from error
    if len({pair.is_member for pair in pairs}) < 2:
        raise SettingsError(f"{path} has {len(pairs)} pairs; accepted: at least one with is_member 0 and one with 1")
    return pairs


def try_judge(pairs: Sequence[LabelledPair], judge: Judge) -> Trial:
    """Judge all pairs without the cache. Raises ModelError for the judge 'none', which has no scores."""
    if not isinstance(judge, LanguageJudge):
        raise ModelError(
            "judge 'none' gives no scores to measure; set judge.name (PERTURB_JUDGE__NAME), for example to gemma-3-270m"
        )
    fresh = judge.uncached()
    fresh.prepare_subjects([pair.target for pair in pairs])
    started = time.perf_counter()
    judged = fresh.belongs([(pair.class_index, pair.target) for pair in pairs])
    elapsed = time.perf_counter() - started
    scores = [judgement.score if judgement.score is not None else float("-inf") for judgement in judged]
    members = [pair.is_member for pair in pairs]
    right = [judgement.holds == member for judgement, member in zip(judged, members, strict=True)]
    threshold = judge.thresholds.belongs
    best = best_threshold(scores, members)
    return Trial(
        judge=judge.name,
        judge_sha256=str(judge.sha256),
        pairs=len(pairs),
        members=sum(members),
        threshold=threshold,
        calibrated=judge.thresholds.calibrated,
        accuracy=accuracy(scores, members, threshold),
        decided_accuracy=sum(right) / len(right),
        auc=area_under_curve(scores, members),
        best_threshold=best,
        best_accuracy=accuracy(scores, members, best),
        pairs_per_second=len(pairs) / elapsed,
        worst=_worst(pairs, scores, threshold),
        scores=tuple(scores),
    )


def accuracy(scores: Sequence[float], members: Sequence[bool], threshold: float) -> float:
    """Return the share of pairs that the threshold classifies correctly."""
    return sum((score > threshold) == member for score, member in zip(scores, members, strict=True)) / len(scores)


def area_under_curve(scores: Sequence[float], members: Sequence[bool]) -> float:
    """Return the probability that a member scores above a non-member; ties count half (Mann-Whitney U over n0 n1)."""
    inside = [score for score, member in zip(scores, members, strict=True) if member]
    outside = [score for score, member in zip(scores, members, strict=True) if not member]
    wins = sum((one > other) + 0.5 * (one == other) for one in inside for other in outside)
    return wins / (len(inside) * len(outside))


def best_threshold(scores: Sequence[float], members: Sequence[bool]) -> float:
    """Return the threshold with the best balanced accuracy: the middle of all cuts that reach it."""
    ordered = sorted(set(scores))
    cuts = [(low + high) / 2 for low, high in pairwise(ordered)] or ordered
    reached = [_balanced_accuracy(scores, members, cut) for cut in cuts]
    top = [cut for cut, value in zip(cuts, reached, strict=True) if value >= max(reached) - 1e-9]
    return (top[0] + top[-1]) / 2


def _balanced_accuracy(scores: Sequence[float], members: Sequence[bool], cut: float) -> float:
    inside = [score > cut for score, member in zip(scores, members, strict=True) if member]
    outside = [score <= cut for score, member in zip(scores, members, strict=True) if not member]
    return (sum(inside) / len(inside) + sum(outside) / len(outside)) / 2


def _worst(pairs: Sequence[LabelledPair], scores: Sequence[float], threshold: float) -> tuple[JudgedPair, ...]:
    judged = [
        JudgedPair(
            class_index=pair.class_index,
            label=imagenet_label(pair.class_index).name,
            target=pair.target,
            is_member=pair.is_member,
            score=score,
            distance=threshold - score if pair.is_member else score - threshold,
        )
        for pair, score in zip(pairs, scores, strict=True)
    ]
    return tuple(sorted(judged, key=lambda pair: -pair.distance)[:10])


def _pair(row: dict[str, str | None], path: Path, line: int) -> LabelledPair:
    index, target, member = (row[column] or "" for column in ("class_index", "target", "is_member"))
    if not index.isdecimal() or int(index) >= NUM_CLASSES:
        raise SettingsError(f"{path}, line {line}: class_index is {index!r}; accepted: 0 to {NUM_CLASSES - 1}")
    if not target.strip():
        raise SettingsError(f"{path}, line {line}: target is empty; accepted: a broad word such as 'dog'")
    if member not in ("0", "1"):
        raise SettingsError(f"{path}, line {line}: is_member is {member!r}; accepted: 0 or 1")
    return LabelledPair(class_index=int(index), target=target, is_member=member == "1")
