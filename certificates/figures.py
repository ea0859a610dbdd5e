"""The figures of a statement, derived from the rows of the results: counts, shares, limits, verdicts.

A pure function of plan, rows and flags, so that a verifier derives them again.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from math import log, sqrt
from typing import Any

from perturb.certificates.plan import Plan
from perturb.certificates.statistics import (
    Limits,
    clopper_pearson,
    confidence_sequence,
    decimal,
    mcnemar,
    share,
    wilson,
)
from perturb.certificates.tables import Row

# With fewer independent photographs no interval beyond them is meaningful.
FEWEST_CLUSTERS = 30
# Rates of a class are shown from this number of images on.
FEWEST_OF_A_CLASS = 20


class Figures:
    """The rows of one certificate as figures: a row for each image and level, in the order of the sample."""

    def __init__(self, plan: Plan, rows: Sequence[Row], *, clusters: int, names: Sequence[str]):
        self.plan, self.names, self.clusters = plan, names, clusters
        self.by_level: dict[int, list[Row]] = {level: [] for level in plan.levels}
        for row in rows:
            self.by_level[row["level"]].append(row)
        self.first = self.by_level[plan.levels[0]]
        self.measured = sum(row["status"] != "not_run" for row in self.first)
        self.stopped_early = self.measured < plan.n
        # Bonferroni: all levels and clean accuracy hold together.
        self.each_alpha = float(plan.alpha) / (len(plan.levels) + 1)

    @property
    def has_intervals(self) -> bool:
        """Whether limits say anything about more than the images themselves."""
        return self.clusters >= FEWEST_CLUSTERS

    def limits(self, count: int) -> Limits | None:
        """Return the limits of a share of the measured images; None with too few clusters."""
        if not self.has_intervals:
            return None
        interval = confidence_sequence if self.stopped_early else clopper_pearson
        return interval(count, self.measured, self.each_alpha)

    def rate(self, count: int) -> dict[str, Any]:
        """Return a share of the measured images with its limits."""
        limits = self.limits(count)
        beside = wilson(count, self.measured, self.each_alpha) if limits else None
        return {
            "count": count,
            "of": self.measured,
            "share": share(count, self.measured),
            "limits": limits.model_dump() if limits else None,
            "wilson": beside.model_dump() if beside else None,
        }

    def clean(self) -> dict[str, Any]:
        """Return clean accuracy."""
        return self.rate(sum(row["status"] in ("broken", "survived") for row in self.first))

    def levels(self) -> list[dict[str, Any]]:
        """Return the figures of each level."""
        return [self._level(level, rows) for level, rows in self.by_level.items()]

    def _level(self, level: int, rows: list[Row]) -> dict[str, Any]:
        counts = Counter(row["status"] for row in rows)
        float_left = sum(row["status"] in ("broken", "survived") and row["float_by"] is None for row in rows)
        return {
            "level": level,
            "epsilon": f"{level}/255",
            "broken": counts["broken"],
            "survived": counts["survived"],
            "wrongClean": counts["wrong_clean"],
            "notRun": counts["not_run"],
            "floatOnly": sum(row["float_only"] for row in rows),
            "robust": self.rate(counts["survived"]),
            "autoAttackFloat": {
                "count": float_left,
                "of": self.measured,
                "share": share(float_left, self.measured),
            },
        }

    def band(self) -> str | None:
        """Return the half width of the band that holds for the whole curve (Dvoretzky, Kiefer, Wolfowitz; Massart)."""
        if not self.has_intervals or not self.measured:
            return None
        return decimal(sqrt(log(2 / float(self.plan.alpha)) / (2 * self.measured)))

    def broken_once(self) -> list[Row]:
        """Return one row for each broken image: that of the smallest level."""
        found: dict[str, Row] = {}
        for rows in self.by_level.values():
            for row in rows:
                if row["status"] == "broken":
                    found.setdefault(row["identity"], row)
        return list(found.values())

    def by_attack(self) -> dict[str, int]:
        """Return how many of the files in the evidence each attack made: of several that break, the smallest change."""
        counts = Counter("crowd" if row["by"].startswith("record ") else row["by"] for row in self.broken_once())
        return dict(sorted(counts.items()))

    def by_class(self) -> list[dict[str, Any]]:
        """Return counts for each class of the sample, and rates of those with enough images."""
        labels = sorted({row["label"] for row in self.first if row["status"] != "not_run"})
        return [self._class(label) for label in labels]

    def _class(self, label: int) -> dict[str, Any]:
        measured = [row for row in self.first if row["label"] == label and row["status"] != "not_run"]
        survived = {
            str(level): sum(row["status"] == "survived" and row["label"] == label for row in rows)
            for level, rows in self.by_level.items()
        }
        enough = len(measured) >= FEWEST_OF_A_CLASS
        return {
            "label": label,
            "name": self.names[label],
            "images": len(measured),
            "correct": sum(row["status"] != "wrong_clean" for row in measured),
            "survived": survived,
            "shares": {level: share(count, len(measured)) for level, count in survived.items()} if enough else None,
        }

    def compared(self, first: str, second: str) -> list[dict[str, Any]]:
        """Return, for each level, on how many images two sources agree: 2 x 2 counts and McNemar's exact p."""
        found = []
        for level, rows in self.by_level.items():
            tried = [row for row in rows if row["status"] in ("broken", "survived")]
            pairs = Counter((row[first], row[second]) for row in tried)
            found.append(
                {
                    "level": level,
                    "both": pairs[True, True],
                    f"only_{first}": pairs[True, False],
                    f"only_{second}": pairs[False, True],
                    "neither": pairs[False, False],
                    "p": mcnemar(pairs[True, False], pairs[False, True]),
                }
            )
        return found

    def passes(self) -> dict[str, int]:
        """Return how many passes AutoAttack took over all images and levels."""
        rows = [row for rows in self.by_level.values() for row in rows]
        return {name: sum(row[name] for row in rows) for name in ("forwards", "backwards")}

    def claims(self, flags: Sequence[str], canary: tuple[int, int]) -> list[dict[str, Any]]:
        """Return each claim of the plan with its verdict and the reasons for one that is undecided."""
        return [self._claim(claim, flags, canary) for claim in self.plan.claims]

    def _claim(self, claim: Any, flags: Sequence[str], canary: tuple[int, int]) -> dict[str, Any]:
        rate = self.clean() if claim.level is None else self._level(claim.level, self.by_level[claim.level])["robust"]
        threshold, limits = Decimal(claim.threshold), rate["limits"]
        doubts = [f"flag {name} is raised" for name in flags]
        if canary[0] < canary[1]:
            doubts.append(f"the attacks found {canary[0]} of {canary[1]} planted weaknesses")
        if self.stopped_early:
            doubts.append(f"{self.plan.n - self.measured} of {self.plan.n} images were not run")
        if limits is None:
            verdict = "undecided"
            doubts = [f"the pool has {self.clusters} independent photographs; an interval needs {FEWEST_CLUSTERS}"]
        elif Decimal(limits["upper"]) < threshold:
            verdict, doubts = "refuted", []
        elif Decimal(limits["lower"]) >= threshold:
            verdict = "undecided" if doubts else "not_refuted"
        else:
            verdict = "undecided"
            doubts.insert(0, f"the threshold lies between the limits {limits['lower']} and {limits['upper']}")
        return {
            "metric": claim.metric,
            "comparator": claim.comparator,
            "threshold": claim.threshold,
            "level": claim.level,
            "passed": verdict == "not_refuted",
            "verdict": verdict,
            "reasons": doubts,
        }
