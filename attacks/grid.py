"""An attack on the uint8 grid itself: as few channel values as possible, each moved by one level.

To a first order a step of one level in channel value i adds |g_i| to the margin, where g is the gradient of the margin.
So the cheapest change moves the values with the largest |g_i|, as many as it takes. Two things make that work where a
single gradient fails:

- g turns as values move. The ranking follows the mean of the gradients at all points visited, which is what
  hard-thresholded gradient ascent (Blumensath and Davies 2009, "Iterative hard thresholding") needs to converge.
- How many values it takes is predicted from the gradient at the current point, and the prediction is corrected by
  how much the last ones were wrong.

Minimal-norm attacks in real numbers lose their flip when rounded (Bonnet, Furon and Bas 2020, "What if adversarial
samples were digital images?"). Here each point visited is an image, and the margin is that of the image.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from perturb.attacks.base import Problem
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels

# Gradients for one level. On EfficientNet-Lite0 more of them cost more time than the values they save are worth.
_ROUNDS = 8
# Values of the first try, as a multiple of what the clean image's gradient promises.
_FIRST = 1.2
# The factors by which the number of values changes at most in one round.
_SHRINK, _GROW = 0.75, 1.3
# How much two values' gains may differ for the seed to decide which is taken first. The gains near the last value taken
# lie much closer together, so that this costs less than a hundredth more values.
_PREFERENCE = 0.03
# Logits by which predictions are assumed too high at first, and at most.
_BIAS, _MAX_BIAS = 0.15, 0.6
# Numbers of values tried at once in the end, as multiples of the last prediction; and where none of them held, or
# time ran out before predictions could be trusted.
_FINISH = (0.97, 1.0, 1.04, 1.08, 1.13)
_WIDE_FINISH = (1.2, 1.5, 2.0, 3.0, 6.0)
# What a finish may cost, in gradients.
_FINISH_STEPS = 3.0
# What one forward of one image costs at most, in gradients.
_ONE_TRY = 0.5


def attack(classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int) -> Pixels:
    """Attack the classifier; see `perturb.attacks.base.Attack`.

    `seed` decides between values of nearly the same gain, so that another challenge on the same photograph gets another
    answer of the same quality.
    """
    problem = Problem(classifier, pixels, label, bounds, deadline)
    random = torch.Generator().manual_seed(seed)
    for levels in range(1, bounds.max_levels + 1):
        _Search(problem, levels, random).run()
        if problem.solved or not problem.time_left():
            break
    return problem.answer


@dataclass(frozen=True)
class _Ranking:
    """Channel values, the most promising first: `order` has indices, `moves` a move for each index; float32 (3HW,)."""

    order: torch.Tensor
    moves: torch.Tensor


class _Search:
    """The smallest set of values that flips when each of them moves by `levels`."""

    def __init__(self, problem: Problem, levels: int, random: torch.Generator):
        self._problem = problem
        self._shape = problem.allowed_change(levels)[0].shape
        self._low, self._high = (side.flatten() for side in problem.allowed_change(levels))
        # Where the bounds require more than this level, one value must reach what they require.
        self._far_low, self._far_high = (side.flatten() for side in problem.allowed_change(problem.bounds.min_levels))
        self._preference = 1 + _PREFERENCE * torch.rand(self._low.numel(), generator=random).to(self._low.device)
        self._change = torch.zeros_like(self._low)
        self._mean = self._gradient = torch.zeros_like(self._low)
        self._margin = 0.0
        self._visited = 0
        self._bias = _BIAS
        self._fewest = self._low.numel()

    def run(self) -> None:
        """Offer all sets that were tried to the problem."""
        if not self._problem.time_left():
            return
        self._visit(self._change)
        ranking, gains = self._rank(self._low.numel())
        count = round(_FIRST * self._enough(gains, self._problem.goal - self._margin))
        for _ in range(_ROUNDS - 1):
            steps = self._problem.steps_left()
            if steps < _FINISH_STEPS + 1:
                break
            count = min(max(count, 1), self._low.numel())
            expected = self._margin + float(gains[count - 1])
            self._visit(self._moved(ranking, count))
            if self._visited > 2:
                self._bias = min(max((self._bias + expected - self._margin) / 2, 0.0), _MAX_BIAS)
            # No later try uses more values; sorting all values would take a fifth of the time of a gradient.
            ranking, gains = self._rank(2 * count)
            count = self._next_count(gains, count)
        else:
            self._finish(ranking, count, _FINISH)
        if not self._problem.solved:
            self._finish(self._rank(self._low.numel())[0], count, _WIDE_FINISH)

    def _visit(self, change: torch.Tensor) -> None:
        """Compute margin and gradient at the clean image plus `change`, and offer it as an answer."""
        problem = self._problem
        gradient, logits = problem.gradient(change.view(self._shape))
        self._margin = problem.margin_of(logits)
        self._change, self._gradient = change, gradient.flatten()
        self._visited += 1
        self._mean = self._mean + (self._gradient - self._mean) / self._visited
        if self._visited > 1 and problem.offer(problem.rounded(change.view(self._shape)), self._margin):
            self._fewest = min(self._fewest, int(change.count_nonzero()))

    def _rank(self, length: int) -> tuple[_Ranking, torch.Tensor]:
        """Return the ranking by the mean gradient, and what its first 1, 2, 3, … values add to the current margin."""
        moves = torch.where(self._mean > 0, self._high, self._low)
        order = (self._mean * moves * self._preference).topk(min(length, self._low.numel())).indices
        gains = (self._gradient * moves)[order].cumsum(0) - torch.dot(self._gradient, self._change)
        return _Ranking(order, moves), gains

    def _enough(self, gains: torch.Tensor, wanted: float) -> int:
        return int((gains < wanted).sum()) + 1

    def _next_count(self, gains: torch.Tensor, count: int) -> int:
        predicted = self._enough(gains, self._problem.goal + self._bias - self._margin)
        return min(max(predicted, int(_SHRINK * count)), int(_GROW * count) + 1, max(1, int(0.99 * self._fewest)))

    def _moved(self, ranking: _Ranking, count: int) -> torch.Tensor:
        change = torch.zeros_like(self._low)
        chosen = ranking.order[:count]
        change[chosen] = ranking.moves[chosen]
        far = torch.where(ranking.moves > 0, self._far_high, self._far_low)
        if change.abs().max() < self._problem.bounds.min_levels:
            reach = (far[ranking.order].abs() >= self._problem.bounds.min_levels).int().argmax()
            change[ranking.order[reach]] = far[ranking.order[reach]]
        return change

    def _finish(self, ranking: _Ranking, count: int, shares: tuple[float, ...]) -> None:
        """Try several numbers of values in one batch, as many of them as fit into the time.

        Without an answer so far, the largest number is tried first, and even in little time: it flips most surely.
        """
        counts = sorted({min(max(1, round(count * share)), self._fewest) for share in shares})
        steps = self._problem.steps_left()
        if self._problem.solved:
            counts = [number for number in counts if number < self._fewest]
            fitting = len(counts) if steps >= 1 else 0
        else:
            # Without a step that was timed, or without a deadline, all fit.
            in_time = len(counts) if steps == math.inf else int(steps * len(shares) / _FINISH_STEPS)
            fitting = min(len(counts), max(in_time, steps > _ONE_TRY))
        if not fitting:
            return
        changes = [self._moved(ranking, number) for number in counts[len(counts) - fitting :]]
        candidates = np.stack([self._problem.rounded(change.view(self._shape)) for change in changes])
        for candidate, margin in zip(candidates, self._problem.margins(candidates), strict=True):
            self._problem.offer(candidate, float(margin))
