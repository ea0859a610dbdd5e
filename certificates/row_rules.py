"""What rows of pool and results must be, whoever wrote them: complete, in order, within range, and nested by level."""

import itertools
import re
from collections.abc import Sequence

from perturb.certificates.measure import SOURCES
from perturb.certificates.plan import Plan
from perturb.certificates.severity import CLASSES
from perturb.certificates.tables import Row
from perturb.models.hypernyms import hypernym_height
from perturb.schemas.imagenet import NUM_CLASSES

_IDENTITY = re.compile(r"[0-9a-f]{64}")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_STATUSES = ("broken", "survived", "wrong_clean", "not_run")
_WITNESS = ("by", "perturbed", "adversarial_label", "margin", "linf_levels", "l0")


def row_faults(plan: Plan, pool: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """Return what is wrong with the rows, a sentence each; empty where they can be counted."""
    identities = [row["identity"] for row in pool]
    if identities != sorted(set(identities)) or not all(map(_IDENTITY.fullmatch, identities)):
        return ["pool.parquet is not sorted by identity, or has an image twice"]
    if len(pool) != plan.pool.images or plan.n > len(pool):
        return [f"pool.parquet has {len(pool)} images, the plan states {plan.pool.images}"]
    if len(results) != plan.n * len(plan.levels):
        return [
            f"results.parquet has {len(results)} rows; {plan.n} images at {len(plan.levels)} levels need more or less"
        ]
    labels = {row["identity"]: row["label"] for row in pool}
    faults: list[str] = []
    for index in range(plan.n):
        rows = results[index * len(plan.levels) : (index + 1) * len(plan.levels)]
        faults += _image_faults(plan, index, rows, labels)
    states = [results[index * len(plan.levels)]["status"] for index in range(plan.n)]
    if "not_run" in states and any(state != "not_run" for state in states[states.index("not_run") :]):
        faults.append("images that were not run stand before images that were: only the last ones may be left out")
    return faults


def _image_faults(plan: Plan, index: int, rows: Sequence[Row], labels: dict[str, int]) -> list[str]:
    first = rows[0]
    where = f"image {index + 1} of results.parquet"
    if labels.get(first["identity"]) != first["label"] or not 0 <= first["label"] < plan.subject.num_classes:
        return [f"{where} is not in the pool with this label"]
    same = ("index", "identity", "label", "clean_label", "clean_margin")
    if first["index"] != index or any(row[name] != first[name] for row in rows for name in same):
        return [f"{where}: its rows are not those of one image in its place"]
    if [row["level"] for row in rows] != list(plan.levels):
        return [f"{where}: its levels are not those of the plan"]
    return [f"{where}, level {row['level']}: {fault}" for row in rows for fault in _row_faults(plan, row)] + [
        f"{where}: {fault}" for fault in _nesting_faults(rows)
    ]


def _row_faults(plan: Plan, row: Row) -> list[str]:
    if row["status"] not in _STATUSES:
        return [f"status {row['status']!r} is not known"]
    faults = []
    broken = row["status"] == "broken"
    if (row["clean_label"] is None) != (row["status"] == "not_run"):
        faults.append("an image that ran has the label of the unchanged image, and no other has")
    elif row["clean_label"] is not None and (row["clean_label"] != row["label"]) != (row["status"] == "wrong_clean"):
        faults.append("wrong_clean are those images, and only those, whose unchanged label is wrong")
    if broken != any(row[source] for source in SOURCES) or broken != (row["by"] is not None):
        faults.append("an image is broken when a source broke it")
    if broken and not _is_known(plan, row["by"]):
        faults.append(f"{row['by']!r} is no attack of the plan")
    if row["float_by"] is not None and row["float_by"] not in plan.suite.attacks:
        faults.append(f"{row['float_by']!r} is no attack of the plan")
    if row["float_only"] != (row["float_by"] is not None and not row["autoattack"]):
        faults.append("float_only is what fell in real numbers alone")
    if any((row[name] is not None) != broken for name in _WITNESS):
        faults.append("the columns of the broken image are there for broken images, and for no others")
    elif broken and not (
        row["adversarial_label"] != row["label"]
        and 0 <= row["adversarial_label"] < plan.subject.num_classes
        and 1 <= row["linf_levels"] <= row["level"]
        and _IDENTITY.fullmatch(row["perturbed"])
    ):
        faults.append("its file changes more than the level, or has the true label")
    if min(row["forwards"], row["backwards"]) < 0:
        faults.append("passes are counted from 0")
    return faults + _severity_faults(plan, row, broken=broken)


def _severity_faults(plan: Plan, row: Row, *, broken: bool) -> list[str]:
    numbers = [row[name] for name in ("clean_margin", "margin", "psnr", "ssim", "judge_score") if row[name] is not None]
    if not all(map(_DECIMAL.fullmatch, numbers)):
        return ["a number is not a decimal"]
    judged = broken and plan.subject.classes == "imagenet-1k" and plan.subject.num_classes == NUM_CLASSES
    if not judged:
        extra = any(row[name] is not None for name in ("severity", "judge_score", "hypernym_height"))
        return ["severity is for broken images of ImageNet-1k's classes"] if extra else []
    if row["severity"] not in CLASSES:
        return [f"severity {row['severity']!r} is not known"]
    if row["hypernym_height"] != hypernym_height(row["label"], row["adversarial_label"]):
        return ["hypernym_height is not WordNet's"]
    return []


def _nesting_faults(rows: Sequence[Row]) -> list[str]:
    """What was broken at a level is broken at each larger one, by the same file."""
    faults = []
    for lower, higher in itertools.pairwise(rows):
        if lower["status"] in ("wrong_clean", "not_run") and higher["status"] != lower["status"]:
            faults.append(f"it is {lower['status']} at level {lower['level']} and not at {higher['level']}")
        if lower["status"] == "broken" and (
            higher["status"] != "broken" or any(higher[name] != lower[name] for name in _WITNESS)
        ):
            faults.append(f"it is broken at level {lower['level']} and not by the same file at {higher['level']}")
        if any(lower[source] and not higher[source] for source in SOURCES):
            faults.append(f"a source broke it at level {lower['level']} and not at {higher['level']}")
    return faults


def _is_known(plan: Plan, name: str) -> bool:
    return (
        name in plan.suite.attacks
        or (plan.suite.grid and name == "grid")
        or (plan.suite.crowd and name.startswith("record "))
    )
