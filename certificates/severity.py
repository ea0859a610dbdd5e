"""How bad the mistakes are: what the broken images are taken for, by the judge, by WordNet and by the provider's list.

The judge compares names only: whether two labels name the same kind of thing. WordNet gives the height of the lowest
hypernym that two labels share (`models/hypernyms.py`), without any model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perturb.certificates.plan import Harm
from perturb.certificates.statistics import decimal, rogan_gladen, share, spearman
from perturb.models.hypernyms import SEVERE_HEIGHT, hypernym_height
from perturb.models.judge.judge import Judge
from perturb.models.judge.thresholds import calibration_counts

Row = dict[str, Any]
CLASSES = ("same_kind", "related", "unrelated")
_WORST = 6


def judge_rows(rows: Sequence[Row], judge: Judge, *, is_imagenet: bool) -> list[Row]:
    """Return the rows with the columns `severity`, `judge_score` and `hypernym_height` filled in for broken images.

    *Same kind* where the judge says so; else *related* where the labels share a hypernym below `SEVERE_HEIGHT`, else
    *unrelated*. All three stay None for classes that are not ImageNet-1k's.
    """
    pairs = sorted({_pair(row) for row in rows if row["status"] == "broken"}) if is_imagenet else []
    found: dict[tuple[int, int], Row] = {}
    for pair, judgement in zip(pairs, judge.same_kind(pairs), strict=True):
        height = hypernym_height(*pair)
        severity = "same_kind" if judgement.holds else "related" if height < SEVERE_HEIGHT else "unrelated"
        score = None if judgement.score is None else decimal(judgement.score, 2)
        found[pair] = {"severity": severity, "judge_score": score, "hypernym_height": height}
    empty: Row = {"severity": None, "judge_score": None, "hypernym_height": None}
    return [{**row, **(found.get(_pair(row), empty) if row["status"] == "broken" else empty)} for row in rows]


def judge_facts(judge: Judge) -> dict[str, Any]:
    """Return what a statement says of its judge: the weights, the prompts, the threshold, its measured errors."""
    facts: dict[str, Any] = {"name": judge.name, "sha256": judge.sha256}
    if judge.sha256 is not None and (counts := calibration_counts(judge.sha256)) is not None:
        facts |= counts
    return facts


def severity_block(
    broken: Sequence[Row], facts: Mapping[str, Any], names: Sequence[str], harm: Sequence[Harm], *, alpha: float
) -> dict[str, Any]:
    """Return the block of a statement: `broken` has one row an image, that of the smallest level at which it broke."""
    judged = [row for row in broken if row["severity"] is not None]
    if not judged:
        reason = "no image was broken" if not broken else "the classes are not those of ImageNet-1k"
        block: dict[str, Any] = {"judged": 0, "reason": reason}
    else:
        counts = {name: sum(row["severity"] == name for row in judged) for name in CLASSES}
        scored = [row for row in judged if row["judge_score"] is not None]
        block = {
            "judged": len(judged),
            "counts": counts,
            "shares": {name: share(count, len(judged)) for name, count in counts.items()},
            "sameKindCorrected": _corrected(counts["same_kind"], len(judged), facts, alpha),
            "severeByWordNet": sum(row["hypernym_height"] >= SEVERE_HEIGHT for row in judged),
            "agreement": spearman(
                [float(row["judge_score"]) for row in scored], [-float(row["hypernym_height"]) for row in scored]
            ),
            "disagreements": _disagreements(judged, names),
        }
    block["harm"] = _harm_block(broken, names, harm)
    return block


def _pair(row: Row) -> tuple[int, int]:
    return row["label"], row["adversarial_label"]


def _corrected(count: int, total: int, facts: Mapping[str, Any], alpha: float) -> dict[str, Any] | None:
    if "sameKindRecognised" not in facts:
        return None
    right, asked = facts["sameKindRecognised"]
    refused, neighbours = facts["neighboursKeptApart"]
    found = rogan_gladen(count, total, sensitivity=(right, asked), specificity=(refused, neighbours), alpha=alpha)
    return None if found is None else {"share": found[0], "limits": found[1].model_dump()}


def _disagreements(rows: Sequence[Row], names: Sequence[str]) -> list[dict[str, Any]]:
    """The pairs on which judge and WordNet differ most: the same kind to one, far apart to the other."""
    pairs = {_pair(row): row for row in rows if row["severity"] == "same_kind" and row["hypernym_height"] > 2}
    pairs |= {_pair(row): row for row in rows if row["severity"] != "same_kind" and row["hypernym_height"] <= 1}
    worst = sorted(pairs.items(), key=lambda item: (-item[1]["hypernym_height"], item[0]))[:_WORST]
    return [
        {
            "from": names[pair[0]],
            "to": names[pair[1]],
            "judgeScore": row["judge_score"],
            "hypernymHeight": row["hypernym_height"],
        }
        for pair, row in worst
    ]


def _harm_block(broken: Sequence[Row], names: Sequence[str], harm: Sequence[Harm]) -> dict[str, Any] | None:
    if not harm:
        return None
    counts = {"low": 0, "medium": 0, "high": 0, "not listed": 0}
    for row in broken:
        first, second = (names[label] for label in _pair(row))
        levels = [one.harm for one in harm if one.from_ in (first, "*") and one.to in (second, "*")]
        worst = max(levels, key=("low", "medium", "high").index) if levels else "not listed"
        counts[worst] += 1
    return {"counts": counts, "highShare": share(counts["high"], len(broken))}
