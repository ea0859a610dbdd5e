"""The score of a verdict: 0.7 quality + 0.3 speed, by a policy whose name and version every record contains.

A policy is a pure function of the verdict and the task's bounds. `docs/scoring.md` has formulas, curves and reasons.
A policy never changes; a better one gets a new name or number, so that old records can be scored again.
"""

from collections.abc import Callable
from math import log10

from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.challenge import Task
from perturb.schemas.errors import SettingsError
from perturb.schemas.verdict import Score, Verdict

QUALITY_WEIGHT = 0.7
SPEED_WEIGHT = 0.3
# grid-1: mean squared levels at and below which the energy term is at its best (one value in 100,000 by one level).
GRID_FLOOR = 1e-5
GRID_ENERGY_WEIGHT = 0.8
GRID_LINF_WEIGHT = 0.2


def score(verdict: Verdict, task: Task, response_ms: float, *, policy: str) -> Score:
    """Return the score of one verdict: all zeros where it is not accepted or its margin is below `min_margin`.

    `response_ms` counts against the task's timeout. Raises SettingsError for an unknown policy.
    """
    quality_of = _policy(policy)
    if not verdict.accepted or verdict.margin is None or verdict.margin < task.bounds.min_margin:
        return Score(quality=0.0, speed=0.0, score=0.0, policy=policy)
    quality = quality_of(verdict, task.bounds)
    speed = speed_of(response_ms, task.timeout_ms)
    return Score(quality=quality, speed=speed, score=QUALITY_WEIGHT * quality + SPEED_WEIGHT * speed, policy=policy)


def speed_of(response_ms: float, timeout_ms: int) -> float:
    """Return 1 for an immediate answer, 0 at the timeout, linear between."""
    return _unit(1 - response_ms / timeout_ms)


def public_1(verdict: Verdict, bounds: Bounds) -> float:
    """Return 0.7 (1 - a)^2 + 0.3 (1 - b)^2.

    a = (linf - epsilon_min) / (epsilon - epsilon_min), b = rmse / epsilon; both clipped to 0..1.
    """
    room = bounds.epsilon - bounds.epsilon_min
    linf, rmse = _measured(verdict)
    a = _unit((linf - bounds.epsilon_min) / room) if room > 0 else 0.0
    b = _unit(rmse / bounds.epsilon)
    return 0.7 * (1 - a) ** 2 + 0.3 * (1 - b) ** 2


def grid_1(verdict: Verdict, bounds: Bounds) -> float:
    """Return 0.8 log(worst / e) / log(worst / floor) + 0.2 (1 - a)^2, e the mean squared change in levels.

    `worst` is the square of the largest allowed level, `floor` 1e-5; a = (levels - min) / (max - min).
    """
    linf, rmse = _measured(verdict)
    worst = float(bounds.max_levels**2)
    energy = max((rmse * LEVELS) ** 2, GRID_FLOOR)
    smallness = _unit(log10(worst / energy) / log10(worst / GRID_FLOOR))
    room = bounds.max_levels - bounds.min_levels
    a = _unit((round(linf * LEVELS) - bounds.min_levels) / room) if room else 0.0
    return GRID_ENERGY_WEIGHT * smallness + GRID_LINF_WEIGHT * (1 - a) ** 2


POLICIES: dict[str, Callable[[Verdict, Bounds], float]] = {"grid-1": grid_1, "public-1": public_1}


def _policy(name: str) -> Callable[[Verdict, Bounds], float]:
    if name not in POLICIES:
        raise SettingsError(f"scoring policy {name!r} is not known; accepted: {', '.join(POLICIES)}")
    return POLICIES[name]


def _measured(verdict: Verdict) -> tuple[float, float]:
    assert verdict.linf is not None
    assert verdict.rmse is not None
    return verdict.linf, verdict.rmse


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
