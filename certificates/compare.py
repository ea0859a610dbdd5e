"""Two certificates side by side: the same images, two networks; paired, with exact tests."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from perturb.certificates.plan import Plan
from perturb.certificates.statistics import decimal, mcnemar, newcombe, share
from perturb.certificates.tables import Row
from perturb.schemas.errors import AuditError


def compare(first: tuple[Plan, Sequence[Row]], second: tuple[Plan, Sequence[Row]]) -> dict[str, Any]:
    """Return, for clean accuracy and each common level, how many common images each of two subjects kept.

    `difference` is second less first, with Newcombe's limits at the first plan's alpha; `p` is McNemar's, exact. Raises
    AuditError where the certificates have no image or no level in common.
    """
    (plan_a, rows_a), (plan_b, rows_b) = first, second
    levels = sorted(set(plan_a.levels) & set(plan_b.levels))
    kept_a, kept_b = _kept(rows_a), _kept(rows_b)
    common = sorted({identity for identity, _ in kept_a} & {identity for identity, _ in kept_b})
    if not common or not levels:
        what = "image" if not common else "level"
        raise AuditError(
            f"the two certificates have no {what} in common; plan both with the same pool, size and levels, so that "
            "enough images are drawn for both"
        )
    rows = [_compared("clean", None, kept_a, kept_b, common, alpha=float(plan_a.alpha))]
    rows += [_compared(f"{level}/255", level, kept_a, kept_b, common, alpha=float(plan_a.alpha)) for level in levels]
    return {
        "first": plan_a.subject.name,
        "firstSha256": plan_a.subject.sha256,
        "second": plan_b.subject.name,
        "secondSha256": plan_b.subject.sha256,
        "images": len(common),
        "rows": rows,
    }


def _kept(rows: Sequence[Row]) -> dict[tuple[str, int | None], bool]:
    """Whether an image was kept: at a level (survived) and unchanged (level None); images that were not run are out."""
    kept: dict[tuple[str, int | None], bool] = {}
    for row in rows:
        if row["status"] != "not_run":
            kept[row["identity"], row["level"]] = row["status"] == "survived"
            kept[row["identity"], None] = row["status"] != "wrong_clean"
    return kept


def _compared(
    name: str,
    level: int | None,
    first: dict[tuple[str, int | None], bool],
    second: dict[tuple[str, int | None], bool],
    common: Sequence[str],
    *,
    alpha: float,
) -> dict[str, Any]:
    pairs = Counter((first[identity, level], second[identity, level]) for identity in common)
    both, only_a, only_b, neither = pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False]
    return {
        "what": name,
        "both": both,
        "onlyFirst": only_a,
        "onlySecond": only_b,
        "neither": neither,
        "first": share(both + only_a, len(common)),
        "second": share(both + only_b, len(common)),
        "difference": decimal((only_b - only_a) / len(common)),
        "limits": newcombe(both, only_b, only_a, neither, alpha).model_dump(),
        "p": mcnemar(only_a, only_b),
    }
