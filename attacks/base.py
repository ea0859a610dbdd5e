"""What attacks share: the problem as they see it, and the loop of the signed-gradient ones."""

import math
import time
from itertools import product
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from perturb.models.classifier import Classifier
from perturb.models.metrics import CleanSsim, Distances, distances, max_squares, ssim_is_surely_above
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels

# Above the asked margin, so that another machine's float32 finds the answer flipped as well.
_MARGIN_SLACK = 0.01
# A flip below this margin is none to a validator, whatever the bounds ask for.
_MARGIN_FLOOR = 0.05
# More than single precision's share in SSIM.
_SSIM_SLACK = 1e-7

# What deadlines are held against; a benchmark on a busy machine may put the process's CPU time here.
clock = time.monotonic

Margins = npt.NDArray[np.float32]
Loss = Literal["margin", "cross_entropy"]


class Attack(Protocol):
    """What `perturb.attacks.load_attack` returns, and what an attack of one's own has to be."""

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """A perturbed copy of `pixels`, uint8 (H, W, 3), that `classifier` does not see as `label`.

        Ends before `deadline` (time.monotonic()) with the best that was found; where nothing flipped, with the
        best try, which the validator will refuse by name. `seed` fixes every random choice.
        """


class Problem:
    """One challenge as an attack works on it, and the best answer so far.

    A candidate counts only as it would be sent: uint8, inside the bounds, its margin taken from the classifier.
    """

    def __init__(self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, deadline: float):
        self.classifier = classifier
        self.label = classifier.check_label(label)
        self.bounds = bounds
        self.clean = np.ascontiguousarray(pixels)
        self.goal = max(bounds.min_margin, _MARGIN_FLOOR) + _MARGIN_SLACK
        self.answer = self.clean.copy()
        self.last_inside = False
        self._rank: tuple[bool, bool, float, float] = (False, False, 0.0, -np.inf)
        self._deadline = deadline
        self._step_seconds = 0.0
        self._step_began: float | None = None
        self._levels = torch.tensor(self.clean[None]).to(classifier.device).permute(0, 3, 1, 2).float()
        self._ssim = CleanSsim(self.clean)
        self._max_squares = max_squares(bounds.min_psnr, self.clean.size)

    @property
    def solved(self) -> bool:
        """Whether an answer inside the bounds was seen to reach the asked margin."""
        return self._rank[0]

    def steps_left(self) -> float:
        """How many steps of the longest duration so far still end before the deadline; to be asked once a step."""
        now = clock()
        if self._step_began is not None:
            self._step_seconds = max(self._step_seconds, now - self._step_began)
        self._step_began = now
        left = self._deadline - now
        if left <= 0:
            return 0.0
        return left / self._step_seconds if self._step_seconds else math.inf

    def time_left(self) -> bool:
        """Whether one more step ends before the deadline, even if it takes a quarter longer than the longest so far."""
        return self.steps_left() > 1.25

    def margins(self, candidates: Pixels) -> Margins:
        """Best other logit minus the true one, float32 (N,), of uint8 (N, H, W, 3)."""
        logits = self.classifier.logits(candidates)
        margins: Margins = np.delete(logits, self.label, axis=1).max(axis=1) - logits[:, self.label]
        return margins

    def margin_of(self, logits: torch.Tensor) -> float:
        """The same of logits (1, C) that `gradient` gave."""
        return float(self._others(logits).amax() - logits[0, self.label])

    def offer(self, candidate: Pixels, margin: float) -> bool:
        """Keeps `candidate` if it is better than the best so far; True if it is an answer that holds.

        Better is, in this order: holds (bounds and margin), flips, changes less, has the larger margin.
        """
        distance = distances(self.clean, candidate)
        self.last_inside = inside = self._inside(candidate, distance)
        holds = inside and margin >= self.goal
        rank = (holds, inside and margin > 0, -distance.squares if holds else 0, margin)
        if inside and rank > self._rank:
            self.answer, self._rank = candidate.copy(), rank
        return holds

    def _inside(self, candidate: Pixels, distance: Distances) -> bool:
        bounds = self.bounds
        if not bounds.min_levels <= distance.linf_levels <= bounds.max_levels or distance.squares > self._max_squares:
            return False
        height, width, _ = candidate.shape
        return (
            ssim_is_surely_above(distance, bounds.min_ssim, height=height, width=width)
            or self._ssim(candidate) >= bounds.min_ssim + _SSIM_SLACK
        )

    def gradient(self, change: torch.Tensor, loss: Loss = "margin") -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient (a level) and logits at the clean image plus `change`, float32; `change` is (N, 3, H, W) in levels.

        `loss` is what shall grow: `margin` (best other logit minus the true one; Carlini & Wagner 2017) or
        `cross_entropy` of the true label.
        """
        # As the classifier itself divides: at whole levels this is the very input that it will be given.
        point = ((self._levels + change) / LEVELS).requires_grad_(True)
        logits = self.classifier.module(point)
        true = logits[:, self.label]
        value = (self._others(logits).amax(dim=1) if loss == "margin" else logits.logsumexp(dim=1)) - true
        (gradient,) = torch.autograd.grad(value.sum(), point)
        return gradient / LEVELS, logits.detach()

    def _others(self, logits: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros_like(logits)
        hidden[:, self.label] = -torch.inf
        return logits + hidden

    def room(self, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """How far each value may go down and up within `levels` and 0..255; float32 (1, 3, H, W), in levels."""
        return (-self._levels).clamp(min=-levels), (LEVELS - self._levels).clamp(max=levels)

    def rounded(self, change: torch.Tensor) -> Pixels:
        """Clean image plus `change` (1, 3, H, W), rounded to levels, as uint8 (H, W, 3)."""
        levels = change[0].round().permute(1, 2, 0).cpu().numpy().astype(np.int16)
        rounded: Pixels = np.clip(self.clean + levels, 0, LEVELS).astype(np.uint8)
        return rounded


class SignedGradientAttack:
    """Signed gradient steps at one level after the other, from the smallest allowed up.

    An attack overrides `start` and `direction`, and sets `steps` and `step_size`. Every step's result is rounded
    and checked, and the first that holds is the answer.
    """

    steps = 10
    #: What to climb at each level, one after the other: see `Problem.gradient`.
    losses: tuple[Loss, ...] = ("cross_entropy",)
    #: Step length as a share of the level.
    step_size = 0.25

    def start(self, problem: Problem, levels: int, random: torch.Generator) -> torch.Tensor:
        """The change to begin with, float32 (1, 3, H, W) in levels."""
        return torch.zeros_like(problem.room(levels)[0])

    def direction(self, gradient: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        """What to follow, given this step's gradient and what the last step followed."""
        return gradient

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """See `Attack`."""
        problem = Problem(classifier, pixels, label, bounds, deadline)
        random = torch.Generator().manual_seed(seed)
        for levels, loss in product(range(bounds.min_levels, bounds.max_levels + 1), self.losses):
            problem.last_inside = False
            self._climb(problem, levels, loss, random)
            # Where even PSNR or SSIM refused the last step, a larger level has no chance.
            if problem.solved or not problem.last_inside:
                break
        return problem.answer

    def _climb(self, problem: Problem, levels: int, loss: Loss, random: torch.Generator) -> None:
        low, high = problem.room(levels)
        change = self.start(problem, levels, random).clamp(low, high)
        memory = None
        for _ in range(self.steps):
            if not problem.time_left():
                return
            gradient, _ = problem.gradient(change, loss)
            memory = self.direction(gradient, memory)
            change = (change + self.step_size * levels * memory.sign()).clamp(low, high)
            candidate = problem.rounded(change)
            if problem.offer(candidate, float(problem.margins(candidate[None])[0])):
                return
