"""An attack on the uint8 grid itself: as few channel values as possible, each by one level where one is enough."""

import numpy as np
import torch

from miner.attacks.base import Problem
from models.classifier import Classifier
from schemas.bounds import Bounds
from schemas.image import Pixels

_STEPS = 10
_ROUNDS = 6
_SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)


def attack(classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int) -> Pixels:
    """See `miner.attacks.base.Attack`."""
    problem = Problem(classifier, pixels, label, bounds, deadline)
    for levels in range(bounds.min_levels, bounds.max_levels + 1):
        if _solve(problem, levels) or not problem.time_left():
            break
    return problem.answer


def _solve(problem: Problem, levels: int) -> bool:
    low, high = problem.room(levels)
    change = torch.zeros_like(low)
    for _ in range(_STEPS):
        if not problem.time_left():
            return True
        gradient, _ = problem.gradient(change)
        change = torch.where(gradient > 0, high, low)
        candidate = problem.rounded(change)
        if problem.offer(candidate, float(problem.margins(candidate[None])[0])):
            _prune(problem, gradient, change)
            return True
    return False


def _prune(problem: Problem, gradient: torch.Tensor, change: torch.Tensor) -> None:
    for _ in range(_ROUNDS):
        if not problem.time_left():
            return
        worth = (gradient * change).flatten()
        changed = int((change != 0).sum())
        order = worth.argsort(descending=True)
        kept = []
        for share in _SHARES:
            mask = torch.zeros_like(worth)
            mask[order[: max(1, int(changed * share))]] = 1
            kept.append(change * mask.view_as(change))
        candidates = np.stack([problem.rounded(one) for one in kept])
        margins = problem.margins(candidates)
        holds = [i for i, margin in enumerate(margins) if problem.offer(candidates[i], float(margin))]
        if not holds:
            return
        change = kept[holds[0]]
        gradient, _ = problem.gradient(change)
