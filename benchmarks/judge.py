"""How well the judge compares names, and its thresholds: calibrated on one half of the pairs, reported on the other.

    python benchmarks/judge.py --pairs FILE.csv [--judge NAME] [--write]

`belongs` is measured on a pairs file (columns class_index,label,target,is_member). The file is split by class, so
that no class is in both halves; the threshold fitted on one half is applied to the other, in both directions.

`same_kind` is measured on pairs whose relation follows from ImageNet itself. Near-identical classes, as known from the
literature on its labels (Beyer et al. 2020; Vasudevan et al. 2022), should count as the same kind. Neighbouring
classes (ImageNet's order follows WordNet, so they are siblings: breeds, kinds of ship) and homographs should not.
The threshold is the score that 5 % of one half of the neighbours exceed: near-identical classes are few, and a miner
whose image shows another class should not be refused because that class is near.

`--write` puts the thresholds, fitted on all pairs, with these figures into models/judge/calibration.json, from where
the judge reads them. Judgements are not cached; pairs per second are measured after the prior of each subject.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from perturb.models.judge.judge import LanguageJudge, load_judge
from perturb.models.judge.prompts import template_version
from perturb.models.judge.trial import (
    LabelledPair,
    Trial,
    accuracy,
    area_under_curve,
    best_threshold,
    read_pairs,
    try_judge,
)
from perturb.models.labels import imagenet_label
from perturb.schemas.settings import Settings, load_settings

CALIBRATION = Path(__file__).resolve().parent.parent / "models" / "calibration.json"

NEAR_IDENTICAL = (
    (638, 639),  # maillot, maillot
    (836, 837),  # sunglass, sunglasses
    (657, 744),  # missile, projectile
    (620, 681),  # laptop, notebook
    (435, 876),  # bathtub, tub
    (664, 782),  # monitor, screen
    (248, 250),  # husky, Siberian husky
    (413, 764),  # assault rifle, rifle
    (101, 386),  # tusker, African elephant
    (987, 998),  # corn, ear
)
HOMOGRAPHS = ((134, 517), (264, 474))  # cranes; a corgi and a jacket
NEIGHBOUR_STEP = 8
TOLERATED = 0.05


@dataclass(frozen=True)
class Half:
    """One direction of the split: fitted here, applied there."""

    threshold: float
    accuracy: float
    auc: float
    pairs: int


def main() -> None:
    """Measures, prints the table, and ends in the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--judge", default=None, help="as PERTURB_JUDGE__NAME")
    parser.add_argument("--write", action="store_true", help="update models/judge/calibration.json")
    arguments = parser.parse_args()

    settings = _settings(arguments.judge)
    started = time.perf_counter()
    judge = load_judge(settings.judge, cache=settings.cache)
    load_s = time.perf_counter() - started
    if not isinstance(judge, LanguageJudge):
        raise SystemExit("judge 'none' has no scores to calibrate; give --judge")
    pairs = read_pairs(arguments.pairs)
    trial = try_judge(pairs, judge)
    halves = _both_directions(pairs, trial.scores)
    kinds = _same_kind(judge.uncached())

    result = _summary(judge, trial, halves, kinds, load_s)
    _print_table(trial, halves, kinds, load_s)
    if arguments.write:
        _write(judge, result, trial.best_threshold, kinds["threshold"])
    print(json.dumps(result))


def _settings(judge: str | None) -> Settings:
    if judge is not None:
        os.environ["PERTURB_JUDGE__NAME"] = judge
    return load_settings()


def _both_directions(pairs: Sequence[LabelledPair], scores: Sequence[float]) -> tuple[Half, Half]:
    classes = sorted({pair.class_index for pair in pairs})
    random.Random(0).shuffle(classes)
    first = set(classes[::2])
    parts = [[n for n, pair in enumerate(pairs) if (pair.class_index in first) == side] for side in (True, False)]
    return _apply(pairs, scores, *parts), _apply(pairs, scores, *reversed(parts))


def _apply(pairs: Sequence[LabelledPair], scores: Sequence[float], fitted: list[int], held: list[int]) -> Half:
    threshold = best_threshold([scores[n] for n in fitted], [pairs[n].is_member for n in fitted])
    found, members = [scores[n] for n in held], [pairs[n].is_member for n in held]
    return Half(threshold, accuracy(found, members, threshold), area_under_curve(found, members), len(held))


def _same_kind(judge: LanguageJudge) -> dict[str, object]:
    known = {frozenset(pair) for pair in NEAR_IDENTICAL}
    neighbours = [
        (index, index + 1)
        for index in range(0, 999, NEIGHBOUR_STEP)
        if frozenset((index, index + 1)) not in known and not _share_a_name(index, index + 1)
    ]
    judged = [*NEAR_IDENTICAL, *HOMOGRAPHS, *neighbours]
    score = {pair: float(found.score or 0) for pair, found in zip(judged, judge.same_kind(judged), strict=True)}
    fitted, held = neighbours[::2], neighbours[1::2]
    threshold = _threshold([score[pair] for pair in fitted])
    final = _threshold([score[pair] for pair in neighbours])
    nearest = sorted(neighbours, key=lambda pair: -score[pair])[:8]
    return {
        "threshold": final,
        "held_out_neighbours_refused": float(np.mean([score[pair] > threshold for pair in held])),
        "near_identical_recognised": float(np.mean([score[pair] > final for pair in NEAR_IDENTICAL])),
        "homographs_kept_apart": all(score[pair] <= final for pair in HOMOGRAPHS),
        "auc": area_under_curve(list(score.values()), [pair in NEAR_IDENTICAL for pair in score]),
        "pairs": len(judged),
        "scores": {_names(pair): round(score[pair], 3) for pair in (*NEAR_IDENTICAL, *HOMOGRAPHS)},
        "nearest_neighbours": {_names(pair): round(score[pair], 3) for pair in nearest},
    }


def _threshold(neighbours: Sequence[float]) -> float:
    return float(np.quantile(neighbours, 1 - TOLERATED))


def _share_a_name(first: int, second: int) -> bool:
    return bool(
        {name.lower() for name in imagenet_label(first).names} & {n.lower() for n in imagenet_label(second).names}
    )


def _names(pair: tuple[int, int]) -> str:
    return " / ".join(imagenet_label(index).name for index in pair)


def _summary(
    judge: LanguageJudge, trial: Trial, halves: tuple[Half, Half], kinds: dict[str, object], load_s: float
) -> dict[str, object]:
    return {
        "judge": judge.name,
        "sha256": judge.sha256,
        "template": template_version(),
        "accuracy": round(float(np.mean([half.accuracy for half in halves])), 4),
        "auc": round(float(np.mean([half.auc for half in halves])), 4),
        "accuracy_halves": [round(half.accuracy, 4) for half in halves],
        "auc_halves": [round(half.auc, 4) for half in halves],
        "pairs": trial.pairs,
        "pairs_per_second": round(trial.pairs_per_second, 1),
        "load_s": round(load_s, 2),
        "same_kind": {name: value for name, value in kinds.items() if name not in ("scores", "nearest_neighbours")},
    }


def _print_table(trial: Trial, halves: tuple[Half, Half], kinds: dict[str, object], load_s: float) -> None:
    print(f"{trial.judge}: loaded in {load_s:.1f} s, {trial.pairs_per_second:.1f} uncached pairs/s over {trial.pairs}")
    print(f"{'belongs, held out':<28}{'threshold':>10}{'accuracy':>10}{'AUC':>8}{'pairs':>7}")
    for name, half in zip(("fitted on A, held out B", "fitted on B, held out A"), halves, strict=True):
        print(f"{name:<28}{half.threshold:>10.3f}{half.accuracy:>10.4f}{half.auc:>8.4f}{half.pairs:>7}")
    best = f"{trial.best_threshold:>10.3f}{trial.best_accuracy:>10.4f}{trial.auc:>8.4f}{trial.pairs:>7}"
    print(f"{'all pairs, best':<28}{best}")
    for pair in trial.worst:
        print(f"  {pair.distance:+.2f}  {pair.label} / {pair.target}: {'member' if pair.is_member else 'no member'}")
    print(f"same_kind, threshold {kinds['threshold']:.3f}")
    for name in ("near_identical_recognised", "held_out_neighbours_refused", "homographs_kept_apart", "auc", "pairs"):
        print(f"  {name:<28}{kinds[name]}")
    for title in ("scores", "nearest_neighbours"):
        for names, score in kinds[title].items():
            print(f"  {score:.3f}  {names}")


def _write(judge: LanguageJudge, result: dict[str, object], belongs: float, same_kind: float) -> None:
    kept = [entry for entry in json.loads(CALIBRATION.read_text()) if entry["sha256"] != judge.sha256]
    figures = ("accuracy", "auc", "accuracy_halves", "auc_halves", "pairs")
    entry = {
        "judge": judge.name,
        "sha256": judge.sha256,
        "template": template_version(),
        "belongs": {"threshold": round(belongs, 3)} | {name: result[name] for name in figures},
        "same_kind": result["same_kind"] | {"threshold": round(same_kind, 3)},
    }
    CALIBRATION.write_text(json.dumps([*kept, entry], indent=2) + "\n")


if __name__ == "__main__":
    main()
