"""Signs that an evaluation is unreliable: AutoAttack's own five flags, and those of masked gradients.

AutoAttack's `flags_doc.md` describes the five: a randomised network, an output that is a probability distribution, zero
gradients, Square better than the white-box attacks, and optimisation inside the forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from perturb.certificates.measure import ResultRow
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels

# As in AutoAttack's checks.py.
_RANDOMISED, _DISTRIBUTION, _SQUARE_TENTHS_OF_PERCENT = 1e-4, 1e-5, 2
_PASSES = 5
IMAGES = 10

MEANING = {
    "randomised": "the same image got different logits in repeated passes",
    "distribution": "the output is a probability distribution, not logits",
    "zero_gradient": "the gradient of the loss is zero at some images",
    "optimisation": "the forward pass computes gradients itself",
    "square_better": "Square, which needs no gradient, broke more than 0.2 points beyond the white-box attacks",
    "canary_missed": "the attacks did not find every planted weakness",
    "larger_not_worse": "a larger level broke fewer images",
}


def probe(classifier: Classifier, images: Sequence[Pixels], *, access: str) -> dict[str, int]:
    """Return the raw measurements on up to `IMAGES` clean images, uint8 (H, W, 3): counts of images.

    `randomised` of images whose logits varied, `distribution` is 1 where all outputs are distributions, `zero_gradient`
    of images with a zero gradient, `optimisation` is 1 where a forward pass computed gradients, `images` of all. Raises
    ModelError where a logit is not finite.
    """
    chosen = list(images[:IMAGES])
    counts = {"images": len(chosen), "randomised": 0, "zero_gradient": 0, "optimisation": 0}
    rows = []
    for pixels in chosen:
        point = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / LEVELS
        with torch.no_grad():
            passes = torch.cat([classifier.module(point) for _ in range(_PASSES)])
        if not bool(torch.isfinite(passes).all()):
            raise ModelError(
                f"subject {classifier.name} gave a logit that is not finite; such a network can't be certified"
            )
        unit = passes / (passes.norm(dim=1, keepdim=True) + 1e-10)
        labels = passes.argmax(dim=1)
        varies = bool((labels != labels[0]).any()) or float((unit - unit[0]).norm(dim=1).max()) > _RANDOMISED
        counts["randomised"] += varies
        rows.append(passes[0])
        if access == "gradients":
            counts["zero_gradient"] += _has_zero_gradient(classifier, point)
            counts["optimisation"] |= _optimises(classifier, point)
    stacked = torch.stack(rows)
    is_distribution = (
        float(stacked.min()) > -_DISTRIBUTION
        and float(stacked.max()) < 1 + _DISTRIBUTION
        and bool(((stacked.sum(1) - 1).abs() < _DISTRIBUTION).all())
    )
    return {**counts, "distribution": int(is_distribution)}


def raised_flags(
    probes: dict[str, int], rows: Sequence[ResultRow], *, canary: tuple[int, int], attacks: Sequence[str]
) -> list[str]:
    """Return the names of the flags that are raised, in the order of `MEANING`."""
    found = {name for name in ("randomised", "distribution", "zero_gradient", "optimisation") if probes[name]}
    if canary[0] < canary[1]:
        found.add("canary_missed")
    if _square_is_better(rows, attacks):
        found.add("square_better")
    if _larger_is_not_worse(rows):
        found.add("larger_not_worse")
    return [name for name in MEANING if name in found]


def _square_is_better(rows: Sequence[ResultRow], attacks: Sequence[str]) -> bool:
    if "square" not in attacks or len(attacks) < 2:
        return False
    levels = {row["level"] for row in rows}
    for level in levels:
        here = [row for row in rows if row["level"] == level and row["status"] != "not_run"]
        only_square = sum(row["float_by"] == "square" for row in here)
        if 1000 * only_square > _SQUARE_TENTHS_OF_PERCENT * len(here):
            return True
    return False


def _larger_is_not_worse(rows: Sequence[ResultRow]) -> bool:
    """Never so in rows that were measured as planned; a check on rows from elsewhere."""
    by_level: dict[int, int] = {}
    for row in rows:
        by_level[row["level"]] = by_level.get(row["level"], 0) + (row["status"] == "broken")
    counts = [by_level[level] for level in sorted(by_level)]
    return counts != sorted(counts)


def _has_zero_gradient(classifier: Classifier, point: torch.Tensor) -> bool:
    """Whether the gradient of the best logits' difference is zero; a loss that saturates alone would not be."""
    start = point.clone().requires_grad_(True)
    with torch.enable_grad():
        logits = classifier.module(start)
        best = logits.topk(2, dim=1).values
        if not logits.requires_grad:
            return True
        (gradient,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), start, allow_unused=True)
    return gradient is None or not bool(gradient.abs().sum() > 0)


def _optimises(classifier: Classifier, point: torch.Tensor) -> bool:
    with _watched_gradients() as calls, torch.enable_grad():
        classifier.module(point)
    return bool(calls)


@contextmanager
def _watched_gradients() -> Iterator[list[str]]:
    """Note calls of torch's gradient functions. AutoAttack's check uses sys.settrace, which would end a debugger."""
    calls: list[str] = []
    original_grad, original_backward = torch.autograd.grad, torch.Tensor.backward

    def grad(*args: Any, **kwargs: Any) -> Any:
        calls.append("grad")
        return original_grad(*args, **kwargs)

    def backward(*args: Any, **kwargs: Any) -> Any:
        calls.append("backward")
        return original_backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    torch.autograd.grad, torch.Tensor.backward = grad, backward  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        torch.autograd.grad, torch.Tensor.backward = original_grad, original_backward  # type: ignore[method-assign]
