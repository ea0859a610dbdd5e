"""The curve of each scoring policy, as docs/scoring.md shows it: perturbations of known size and their scores."""

from math import sqrt

from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.score import POLICIES, score
from tests.support.tasks import make_task

VALUES = 224 * 224 * 3
CASES = [
    ("8 levels, every value", 8, 1.0),
    ("4 levels, every value", 4, 1.0),
    ("2 levels, every value", 2, 1.0),
    ("1 level, every value", 1, 1.0),
    ("1 level, 10 % of the values", 1, 0.1),
    ("4 levels, 1 % of the values", 4, 0.01),
    ("1 level, 2.6 % of the values", 1, 0.026),
    ("1 level, 1 % of the values", 1, 0.01),
    ("1 level, 0.1 % of the values", 1, 0.001),
    ("1 level, a single value", 1, 1 / VALUES),
]


def table() -> list[str]:
    """The lines of the table, in Markdown."""
    names = list(POLICIES)
    lines = ["| perturbation (224x224) | " + " | ".join(f"{name}: quality | score" for name in names) + " |"]
    lines.append("|---|" + "---|" * 2 * len(names))
    for what, levels, share in CASES:
        found = [points(levels, share, policy=name) for name in names]
        lines.append(f"| {what} | " + " | ".join(f"{quality:.3f} | {total:.3f}" for quality, total in found) + " |")
    return lines


def points(levels: int, share: float, *, policy: str) -> tuple[float, float]:
    """Quality and score of changing `share` of the values by `levels`, answered after 1 s of 20 s."""
    verdict = Verdict(outcome="accepted", linf=levels / 255, rmse=levels * sqrt(share) / 255, margin=1.0)
    earned = score(verdict, make_task(), 1_000, policy=policy)
    return earned.quality, earned.score
