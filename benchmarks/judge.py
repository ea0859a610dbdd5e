"""How well the judge compares names, and its thresholds: calibrated on some classes, reported on the others.

    python benchmarks/judge.py [--pairs FILE.csv] [--judge NAME] [--write]
    python benchmarks/judge.py --write-tables

`belongs` is calibrated on all 1,000 classes. Each is paired with a broad word that covers it in WordNet, if one of
`BROAD` does, and with one that does not. The pairs are split into five parts by class: the threshold that is fitted on
four parts is applied to the fifth. `--pairs` measures further pairs (columns class_index,label,target,is_member) at the
judge's own threshold.

`same_kind` is measured on pairs whose relation follows from ImageNet itself. Near-identical classes, as known from the
literature on its labels (Beyer et al. 2020; Vasudevan et al. 2022), should count as the same kind. Neighbouring
classes (ImageNet's order follows WordNet, so they are siblings: breeds, kinds of ship) and homographs should not.
The threshold is the score that 5 % of one half of the neighbours exceed: near-identical classes are few, and a miner
whose image shows another class should not be refused because that class is near.

Pairs per second are measured without the scores of the package and without cached judgements, after the judge was
prepared (which is timed) and, for `belongs`, after the prior of each subject. For `same_kind` every tenth class is
compared with the ten of the largest shared category, one class a call, as a challenge asks; that is its hardest case.

`--write` puts the thresholds, fitted on all pairs, with these figures into models/judge/calibration.json, from where
the judge reads them.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from perturb.models.hypernyms import is_named_by
from perturb.models.judge.judge import LanguageJudge, load_judge
from perturb.models.judge.label_tables import SHIPPED
from perturb.models.judge.prompts import template_version
from perturb.models.judge.scores import same_kind_scores
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
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import Settings, load_settings

CALIBRATION = Path(__file__).resolve().parent.parent / "models" / "judge" / "calibration.json"

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
BROAD = (
    *("dog", "cat", "bear", "monkey", "bird", "fish", "frog", "turtle", "lizard", "snake", "spider", "insect"),
    *("crustacean", "food", "fruit", "vegetable", "clothing", "furniture", "building", "tool", "weapon", "computer"),
    *("musical instrument", "clock", "ball", "bottle", "car", "truck", "boat", "airplane"),
)
FOLDS = 5
NEIGHBOUR_STEP = 8
TOLERATED = 0.05
SPEED_STEP = 10
NEAREST = 10


@dataclass(frozen=True)
class Fold:
    """One part of the classes: `threshold` was fitted on the others and is applied to this one."""

    threshold: float
    accuracy: float
    auc: float
    pairs: int


def main() -> None:
    """Measures, prints the table, and ends in the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="measure these as well")
    parser.add_argument("--judge", default=None, help="as PERTURB_JUDGE__NAME")
    parser.add_argument("--write", action="store_true", help="update models/judge/calibration.json")
    parser.add_argument(
        "--write-tables", action="store_true", help="put what can be known in advance into the package's file, and end"
    )
    arguments = parser.parse_args()

    settings = _settings(arguments.judge)
    started = time.perf_counter()
    judge = load_judge(settings.judge, cache=settings.cache)
    load_s = time.perf_counter() - started
    if not isinstance(judge, LanguageJudge):
        raise SystemExit("judge 'none' has no scores to calibrate; give --judge")
    if arguments.write_tables:
        judge.precompute(settings.cache, tell=lambda state: print(state, file=sys.stderr))
        assert judge.tables is not None
        judge.tables.for_package().save(SHIPPED)
        print(json.dumps({"file": SHIPPED.name, "bytes": SHIPPED.stat().st_size, "pairs": len(judge.tables.scored)}))
        return
    given = read_pairs(arguments.pairs) if arguments.pairs else None
    preparation = _prepare(judge)
    pairs = _calibration_pairs()
    print(f"{len(pairs)} pairs to calibrate with", file=sys.stderr)
    calibration = try_judge(pairs, judge)
    trial = try_judge(given, judge) if given else calibration
    folds = _folds(pairs, calibration.scores)
    speed = _same_kind_speed(judge.uncached())
    kinds = _same_kind(judge)

    result = (
        _summary(judge, trial, folds, kinds, load_s) | preparation | {"same_kind_pairs_per_second": round(speed, 1)}
    )
    print(", ".join(f"{name} {value}" for name, value in preparation.items()) + f", same_kind {speed:.1f} pairs/s")
    _print_table(trial, folds, kinds, load_s)
    if arguments.write:
        _write(judge, result, calibration.best_threshold, kinds["threshold"])
    print(json.dumps(result))


def _settings(judge: str | None) -> Settings:
    if judge is not None:
        os.environ["PERTURB_JUDGE__NAME"] = judge
    return load_settings()


def _prepare(judge: LanguageJudge) -> dict[str, float]:
    """Prepare the judge as on a machine that has nothing yet; return seconds and megabytes."""
    judge.tables = None
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        judge.prepare(Path(folder), tell=lambda state: print(state, file=sys.stderr))
        seconds = time.perf_counter() - started
        kept = sum(path.stat().st_size for path in Path(folder).iterdir())
    return {"preparation_s": round(seconds, 1), "preparation_mb": round(kept / 1e6, 1)}


def _same_kind_speed(judge: LanguageJudge) -> float:
    """Uncached pairs a second of every tenth class with its nearest."""
    assert judge.tables is not None
    classes = range(0, NUM_CLASSES, SPEED_STEP)
    asked = []
    for label in classes:
        others = [other for other in range(NUM_CLASSES) if other != label]
        nearest = sorted(others, key=lambda other: -judge.tables.overlap(label, other))[:NEAREST]
        asked.append([(label, other) for other in nearest])
    started = time.perf_counter()
    for pairs in asked:
        judge.same_kind(pairs)
    return len(asked) * NEAREST / (time.perf_counter() - started)


def _calibration_pairs() -> list[LabelledPair]:
    """Every class with a broad word that covers it, where there is one, and with one that does not; always the same."""
    draw = random.Random(0)
    pairs = []
    for index in range(NUM_CLASSES):
        covering = [word for word in BROAD if is_named_by(word, index)]
        others = [word for word in BROAD if word not in covering]
        pairs += [LabelledPair(index, draw.choice(words), words is covering) for words in (covering, others) if words]
    return pairs


def _folds(pairs: Sequence[LabelledPair], scores: Sequence[float]) -> list[Fold]:
    classes = sorted({pair.class_index for pair in pairs})
    random.Random(0).shuffle(classes)
    return [_fold(pairs, scores, set(classes[part::FOLDS])) for part in range(FOLDS)]


def _fold(pairs: Sequence[LabelledPair], scores: Sequence[float], held_out: set[int]) -> Fold:
    held = [n for n, pair in enumerate(pairs) if pair.class_index in held_out]
    fitted = [n for n, pair in enumerate(pairs) if pair.class_index not in held_out]
    threshold = best_threshold([scores[n] for n in fitted], [pairs[n].is_member for n in fitted])
    found, members = [scores[n] for n in held], [pairs[n].is_member for n in held]
    return Fold(threshold, accuracy(found, members, threshold), area_under_curve(found, members), len(held))


def _same_kind(judge: LanguageJudge) -> dict[str, object]:
    known = {frozenset(pair) for pair in NEAR_IDENTICAL}
    neighbours = [
        (index, index + 1)
        for index in range(0, 999, NEIGHBOUR_STEP)
        if frozenset((index, index + 1)) not in known and not _share_a_name(index, index + 1)
    ]
    judged = [*NEAR_IDENTICAL, *HOMOGRAPHS, *neighbours]
    score = {pair: found.score for pair, found in zip(judged, same_kind_scores(judge.model, judged), strict=True)}
    fitted, held = neighbours[::2], neighbours[1::2]
    threshold = _threshold([score[pair] for pair in fitted])
    final = _threshold([score[pair] for pair in neighbours])
    nearest = sorted(neighbours, key=lambda pair: -score[pair])[:8]
    return {
        "threshold": final,
        "held_out_neighbours_refused": float(np.mean([score[pair] > threshold for pair in held])),
        "neighbour_pairs": len(held),
        "near_identical_recognised": float(np.mean([score[pair] > final for pair in NEAR_IDENTICAL])),
        "near_identical_pairs": len(NEAR_IDENTICAL),
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
    judge: LanguageJudge, trial: Trial, folds: Sequence[Fold], kinds: dict[str, object], load_s: float
) -> dict[str, object]:
    return {
        "judge": judge.name,
        "sha256": judge.sha256,
        "template": template_version(),
        "accuracy": round(trial.accuracy, 4),
        "auc": round(trial.auc, 4),
        "decided_accuracy": round(trial.decided_accuracy, 4),
        "pairs": trial.pairs,
        "held_out": {
            "accuracy": round(float(np.mean([fold.accuracy for fold in folds])), 4),
            "auc": round(float(np.mean([fold.auc for fold in folds])), 4),
            "accuracy_folds": [round(fold.accuracy, 4) for fold in folds],
            "auc_folds": [round(fold.auc, 4) for fold in folds],
            "pairs": sum(fold.pairs for fold in folds),
        },
        "pairs_per_second": round(trial.pairs_per_second, 1),
        "load_s": round(load_s, 2),
        "same_kind": {name: value for name, value in kinds.items() if name not in ("scores", "nearest_neighbours")},
    }


def _print_table(trial: Trial, folds: Sequence[Fold], kinds: dict[str, object], load_s: float) -> None:
    print(f"{trial.judge}: loaded in {load_s:.1f} s, {trial.pairs_per_second:.1f} uncached pairs/s over {trial.pairs}")
    print(f"{'belongs, held-out classes':<28}{'threshold':>10}{'accuracy':>10}{'AUC':>8}{'pairs':>7}")
    for number, fold in enumerate(folds, start=1):
        print(f"{f'part {number}':<28}{fold.threshold:>10.3f}{fold.accuracy:>10.4f}{fold.auc:>8.4f}{fold.pairs:>7}")
    own = f"{trial.threshold:>10.3f}{trial.accuracy:>10.4f}{trial.auc:>8.4f}{trial.pairs:>7}"
    best = f"{trial.best_threshold:>10.3f}{trial.best_accuracy:>10.4f}{trial.auc:>8.4f}{trial.pairs:>7}"
    print(f"{'pairs, own threshold':<28}{own}")
    print(f"{'pairs, best threshold':<28}{best}")
    print(f"{'decided, with WordNet':<28}{'':>10}{trial.decided_accuracy:>10.4f}")
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
    entry = {
        "judge": judge.name,
        "sha256": judge.sha256,
        "template": template_version(),
        "belongs": {"threshold": round(belongs, 3), "held_out": result["held_out"]},
        "same_kind": result["same_kind"] | {"threshold": round(same_kind, 3)},
    }
    CALIBRATION.write_text(json.dumps([*kept, entry], indent=2) + "\n")


if __name__ == "__main__":
    main()
