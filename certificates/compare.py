"""Two certificates side by side: the same images, two networks; paired, with exact tests."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.certificates.aging import open_certificate
from perturb.certificates.figures import FEWEST_CLUSTERS
from perturb.certificates.folder import CertificateFolder, unpack
from perturb.certificates.page import render_page
from perturb.certificates.plan import Plan
from perturb.certificates.statistics import decimal, mcnemar, newcombe, share
from perturb.certificates.tables import POOL, RESULTS, Row, read_table
from perturb.schemas.errors import AuditError


@dataclass(frozen=True)
class Side:
    """One certificate of a comparison: its plan, and the rows of its results and of its pool."""

    plan: Plan
    results: Sequence[Row]
    pool: Sequence[Row]


def read_side(file: Path) -> Side:
    """Return a certificate's side of a comparison. Raises AuditError where a signature or a file doesn't hold.

    That its figures follow from its evidence is for `verify` to say.
    """
    _, plan, _ = open_certificate(file)
    folder = CertificateFolder(file.parent)
    pool = read_table(folder.read("pool.parquet"), POOL, f"{file.parent}/pool.parquet")
    return Side(plan, read_table(folder.read("results.parquet"), RESULTS, f"{file.parent}/results.parquet"), pool)


def compare(first: Side, second: Side) -> dict[str, Any]:
    """Return, for clean accuracy and each common level, how many common images each of two subjects kept.

    Images that both measured with the same label are common; `otherLabels` counts those whose labels differ.
    `difference` is second less first, with Newcombe's limits at the first plan's alpha; `p` is McNemar's, exact. Both
    are None where the images come from too few independent photographs (`clusters`). Raises AuditError where the
    certificates have no image or no level in common.
    """
    levels = sorted(set(first.plan.levels) & set(second.plan.levels))
    kept_a, kept_b = _kept(first.results), _kept(second.results)
    both = sorted({identity for identity, _ in kept_a} & {identity for identity, _ in kept_b})
    labels_a, labels_b = _labels(first.results), _labels(second.results)
    common = [identity for identity in both if labels_a[identity] == labels_b[identity]]
    if not common or not levels:
        what = "image" if not common else "level"
        raise AuditError(
            f"the two certificates have no {what} in common; plan the second one with `--like` and the folder of the "
            "first, and with the same levels"
        )
    cluster_of = {row["identity"]: row["cluster"] for row in first.pool}
    clusters = len({cluster_of.get(identity, identity) for identity in common})
    alpha = float(first.plan.alpha) if clusters >= FEWEST_CLUSTERS else None
    rows = [_compared("clean", None, kept_a, kept_b, common, alpha=alpha)]
    rows += [_compared(f"{level}/255", level, kept_a, kept_b, common, alpha=alpha) for level in levels]
    return {
        "first": first.plan.subject.name,
        "firstSha256": first.plan.subject.sha256,
        "second": second.plan.subject.name,
        "secondSha256": second.plan.subject.sha256,
        "images": len(common),
        "clusters": clusters,
        "otherLabels": len(both) - len(common),
        "rows": rows,
    }


def page_beside(file: Path, found: dict[str, Any] | None) -> bytes:
    """Return the page of a certificate, with the comparison of which it is the first, if there is one.

    Without one it is `report.html`, which `verify` renders again; with one it is another page.
    """
    statement, _, _ = open_certificate(file)
    folder = CertificateFolder(file.parent)
    rows = read_table(folder.read("results.parquet"), RESULTS, f"{file.parent}/results.parquet")
    members = unpack(folder.read("evidence.tar"), f"{file.parent}/evidence.tar")
    return render_page(statement, rows, members, beside=found).encode()


def _kept(rows: Sequence[Row]) -> dict[tuple[str, int | None], bool]:
    """Whether an image was kept: at a level (survived) and unchanged (level None); images that were not run are out."""
    kept: dict[tuple[str, int | None], bool] = {}
    for row in rows:
        if row["status"] != "not_run":
            kept[row["identity"], row["level"]] = row["status"] == "survived"
            kept[row["identity"], None] = row["status"] != "wrong_clean"
    return kept


def _labels(rows: Sequence[Row]) -> dict[str, int]:
    return {row["identity"]: row["label"] for row in rows}


def _compared(
    name: str,
    level: int | None,
    first: dict[tuple[str, int | None], bool],
    second: dict[tuple[str, int | None], bool],
    common: Sequence[str],
    *,
    alpha: float | None,
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
        "limits": None if alpha is None else newcombe(both, only_b, only_a, neither, alpha).model_dump(),
        "p": None if alpha is None else mcnemar(only_a, only_b),
    }
