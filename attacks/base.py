"""What attacks share: one challenge as a `Problem`, and the loop of the signed-gradient attacks."""

import math
import threading
import time
from itertools import product
from statistics import median_low
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from perturb.attacks.observer import Candidate, watcher
from perturb.models.classifier import Classifier
from perturb.models.metrics import CleanSsim, Distances, distances, max_squares, ssim_is_surely_above
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels

# Added to the required margin, so that the answer flips in the float32 arithmetic of other machines too.
_MARGIN_SLACK = 0.01
# A validator does not count a flip below this margin, even where the bounds require less.
_MARGIN_FLOOR = 0.05
# More than the error that single precision causes in SSIM.
_SSIM_SLACK = 1e-7

# Two computations of one image's margin differ by less, two images' margins by more.
_SAME_MARGIN = 1e-3

# A step whose threads got less than this share of their wall-clock time shares its cores with other programs. OpenMP's
# threads wait for one another, so a thread without a core holds up all: steps of two threads beside two busy programs
# took up to 20 times as long as alone, steps of one thread twice as long. Alone, two threads save a fifth.
_CROWDED = 0.8

# The clock of deadlines; a benchmark on a busy machine may replace it with the process's CPU time.
clock = time.monotonic

Margins = npt.NDArray[np.float32]
Loss = Literal["margin", "cross_entropy"]


class _Threads(threading.local):
    """How many threads torch uses for an attack, on the thread that runs it."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._share = 0.0

    def reduced_after(self, wall_seconds: float, cpu_seconds: float) -> bool:
        """Use one thread from now on if the last step's threads did not get their cores; return whether that is new."""
        threads = torch.get_num_threads()
        self._share = cpu_seconds / (wall_seconds * threads) if wall_seconds else 1.0
        if threads == 1 or self._share >= _CROWDED:
            return False
        self._before = threads
        torch.set_num_threads(1)
        return True

    def restore(self) -> None:
        """Use as many threads as before, if the one thread had a core for itself in its last step."""
        if self._before is not None and self._share >= _CROWDED:
            torch.set_num_threads(self._before)
            self._before = None


_threads = _Threads()


class Attack(Protocol):
    """The interface of an attack: what `perturb.attacks.load_attack` returns."""

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """Return a perturbed copy of `pixels`, uint8 (H, W, 3), to which `classifier` gives another label than `label`.

        Returns before `deadline` (time.monotonic(), in seconds). Where nothing flipped, returns the best try, which the
        validator refuses with a reason. `seed` determines all random choices.
        """


class Problem:
    """One challenge that an attack works on, and the best answer so far.

    Candidates are judged as they would be sent: uint8, inside the bounds, with the margin that the classifier gives.
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
        self._step_seconds: list[float] = []
        self._step_began: float | None = None
        self._cpu_began = 0.0
        # Whether anything was computed since `steps_left` was called.
        self._worked = False
        # What was computed last, for who watches.
        self._logits: npt.NDArray[np.float32] | None = None
        self._levels = torch.tensor(self.clean[None]).to(classifier.device).permute(0, 3, 1, 2).float()
        self._ssim = CleanSsim(self.clean)
        self._max_squares = max_squares(bounds.min_psnr, self.clean.size)
        _threads.restore()

    @property
    def solved(self) -> bool:
        """Whether an answer inside the bounds reached the required margin."""
        return self._rank[0]

    def steps_left(self) -> float:
        """Return how many steps end before the deadline; call it once per step.

        Until an answer holds, a step is assumed to take the median of the steps so far: beside other programs, one slow
        step says little about the next. Once an answer holds, the longest step counts: a late answer is lost.
        """
        now, cpu = clock(), time.process_time()
        if self._step_began is not None and self._worked:
            seconds = now - self._step_began
            self._step_seconds.append(seconds)
            on_cpu = self.classifier.device.type == "cpu"
            if on_cpu and _threads.reduced_after(seconds, cpu - self._cpu_began):
                # What steps took with more threads says nothing about those to come.
                self._step_seconds.clear()
        self._step_began, self._cpu_began, self._worked = now, cpu, False
        left = self._deadline - now
        if left <= 0:
            return 0.0
        if not self._step_seconds:
            return math.inf
        step = max(self._step_seconds) if self.solved else median_low(self._step_seconds)
        return left / step if step else math.inf

    def time_left(self) -> bool:
        """Return whether one more step ends before the deadline, even if it takes 1.25 times what is expected."""
        return self.steps_left() > 1.25

    def margins(self, candidates: Pixels) -> Margins:
        """Return the best other logit minus the true one, float32 (N,), of uint8 (N, H, W, 3)."""
        self._worked = True
        self._logits = logits = self.classifier.logits(candidates)
        margins: Margins = np.delete(logits, self.label, axis=1).max(axis=1) - logits[:, self.label]
        return margins

    def margin_of(self, logits: torch.Tensor) -> float:
        """Return the margin of logits (1, C) that `gradient` returned."""
        return float(self._others(logits).amax() - logits[0, self.label])

    def offer(self, candidate: Pixels, margin: float) -> bool:
        """Keep `candidate` if it is better than the best so far; return whether it holds.

        A candidate holds when it is inside the bounds and reaches the required margin. Candidates are compared by these
        criteria, in this order: whether they hold, whether they flip, how little they change, how large the margin is.
        """
        distance = distances(self.clean, candidate)
        self.last_inside = inside = self._inside(candidate, distance)
        holds = inside and margin >= self.goal
        rank = (holds, inside and margin > 0, -distance.squares if holds else 0, margin)
        if inside and rank > self._rank:
            self.answer, self._rank = candidate.copy(), rank
        if (watch := watcher()) is not None:
            logits = self._logits_of(margin)
            seen = (distance.linf_levels, distance.l0, inside, holds)
            watch(Candidate(candidate, margin, logits, *seen))
        return holds

    def _logits_of(self, margin: float) -> npt.NDArray[np.float32] | None:
        """Return the logits that were computed last and have this margin, or None."""
        if self._logits is None:
            return None
        rows = self._logits
        margins = np.delete(rows, self.label, axis=1).max(axis=1) - rows[:, self.label]
        nearest = int(np.abs(margins - margin).argmin())
        return rows[nearest] if abs(float(margins[nearest]) - margin) < _SAME_MARGIN else None

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
        """Return gradient (per level) and logits at the clean image plus `change`, float32 (N, 3, H, W) in levels.

        `loss` is what an attack increases: `margin` (best other logit minus the true one; Carlini and Wagner 2017,
        arXiv:1608.04644) or `cross_entropy` of the true label.
        """
        self._worked = True
        # The classifier divides in the same way, so at whole levels this is exactly its input.
        point = ((self._levels + change) / LEVELS).requires_grad_(True)
        logits = self.classifier.module(point)
        true = logits[:, self.label]
        value = (self._others(logits).amax(dim=1) if loss == "margin" else logits.logsumexp(dim=1)) - true
        (gradient,) = torch.autograd.grad(value.sum(), point)
        if watcher() is not None:
            self._logits = logits.detach().cpu().numpy()
        return gradient / LEVELS, logits.detach()

    def _others(self, logits: torch.Tensor) -> torch.Tensor:
        hidden = torch.zeros_like(logits)
        hidden[:, self.label] = -torch.inf
        return logits + hidden

    def allowed_change(self, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far each value may go down and up within `levels` and 0..255; float32 (1, 3, H, W), in levels."""
        return (-self._levels).clamp(min=-levels), (LEVELS - self._levels).clamp(max=levels)

    def rounded(self, change: torch.Tensor) -> Pixels:
        """Return the clean image plus `change` (1, 3, H, W), rounded to levels, as uint8 (H, W, 3)."""
        levels = change[0].round().permute(1, 2, 0).cpu().numpy().astype(np.int16)
        rounded: Pixels = np.clip(self.clean + levels, 0, LEVELS).astype(np.uint8)
        return rounded


class SignedGradientAttack:
    """Signed gradient steps, first at the smallest level that is allowed, then at the next.

    An attack overrides `start` and `direction`, and sets `steps` and `step_size`. The result of each step is rounded
    and checked, and the first that holds is the answer.
    """

    steps = 10
    #: The losses to increase at each level, one after the other; see `Problem.gradient`.
    losses: tuple[Loss, ...] = ("cross_entropy",)
    #: Step length as a fraction of the level.
    step_size = 0.25

    def start(self, problem: Problem, levels: int, random: torch.Generator) -> torch.Tensor:
        """Return the change to start from, float32 (1, 3, H, W) in levels."""
        return torch.zeros_like(problem.allowed_change(levels)[0])

    def direction(self, gradient: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        """Return the direction of this step, given its gradient and the direction of the previous step."""
        return gradient

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """Attack the classifier; see `Attack`."""
        problem = Problem(classifier, pixels, label, bounds, deadline)
        random = torch.Generator().manual_seed(seed)
        for levels, loss in product(range(bounds.min_levels, bounds.max_levels + 1), self.losses):
            problem.last_inside = False
            self._climb(problem, levels, loss, random)
            # Where the last step failed PSNR or SSIM, a larger level fails them too.
            if problem.solved or not problem.last_inside:
                break
        return problem.answer

    def _climb(self, problem: Problem, levels: int, loss: Loss, random: torch.Generator) -> None:
        low, high = problem.allowed_change(levels)
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
