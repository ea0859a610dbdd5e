"""The table that trainers want of a network: clean accuracy, what perturbations do to it, and what fresh attacks do.

    results = [measure(network, subject, levels=(1, 2, 4)) for subject in subjects]
    table = summarise(results)

All figures are means over photographs or over perturbed images, with 95 % intervals by bootstrap over photographs:
the versions of one photograph are not independent.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from perturb.attacks import load_attack
from perturb.models.bootstrap import Interval, Sums, interval
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels
from perturb.tasks.evaluate.data import Subject

_TOP = 5
# An attack on a small network takes a second; this ends one that never would.
_ATTACK_SECONDS = 600.0
_PGD = "pgd"


@dataclass(frozen=True)
class Measured:
    """What one network says of one photograph.

    `nll` is the negative log-likelihood of the true class in nats. `held` and `margins` (best other logit minus the
    true one) belong to the perturbed versions, in their order. `broken_at` is the smallest level at which a fresh PGD
    broke the photograph: 0 where the network is wrong about it anyway, null where none of the levels did.
    """

    identity: str
    top1: bool
    top5: bool
    nll: float
    held: tuple[bool, ...]
    margins: tuple[float, ...]
    broken_at: int | None
    attacked: tuple[int, ...]


def measure(network: Classifier, subject: Subject, *, levels: Sequence[int], seed: int = 0) -> Measured:
    """Measure one network on one photograph; `levels` are the L-inf bounds of PGD, ascending, in levels of 255.

    Logits are computed in double precision, so that they do not depend on device and batch size.
    """
    clean = _fitted(network, subject.pixels)
    logits = network.exact_logits(clean[None])[0]
    order = np.argsort(-logits, kind="stable")
    versions = [_fitted(network, pixels) for pixels in subject.versions]
    changed = network.exact_logits(np.stack(versions)) if versions else np.zeros((0, network.num_classes))
    margins = np.delete(changed, subject.label, axis=1).max(axis=1, initial=-np.inf) - changed[:, subject.label]
    right = int(order[0]) == subject.label
    return Measured(
        identity=subject.identity,
        top1=right,
        top5=subject.label in order[:_TOP],
        nll=float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[subject.label]),
        held=tuple(bool(row.argmax() == subject.label) for row in changed),
        margins=tuple(float(margin) for margin in margins),
        broken_at=_broken_at(network, clean, subject.label, levels, seed) if right else 0,
        attacked=tuple(levels),
    )


def _fitted(network: Classifier, pixels: Pixels) -> Pixels:
    """Return an image as the network takes it: as it is where it has the network's size."""
    return pixels if pixels.shape[:2] == (network.height, network.width) else network.prepare(pixels)


def _broken_at(network: Classifier, clean: Pixels, label: int, levels: Sequence[int], seed: int) -> int | None:
    attack = load_attack(_PGD)
    for level in levels:
        bounds = Bounds(epsilon_min=1 / LEVELS, epsilon=level / LEVELS, min_psnr=0, min_ssim=0, min_margin=0)
        answer = attack(network, clean, label, bounds, deadline=time.monotonic() + _ATTACK_SECONDS, seed=seed)
        if int(network.exact_logits(answer[None])[0].argmax()) != label:
            return level
    return None


def figures(results: Sequence[Measured]) -> dict[str, Sums]:
    """Return each figure's sums and counts for every photograph, float64 (photographs, 2): its mean is sum / count."""

    def column(value: Callable[[Measured], tuple[float, int]]) -> Sums:
        return np.array([value(one) for one in results], np.float64).reshape(-1, 2)

    found = {
        "clean_top1": column(lambda one: (one.top1, 1)),
        "clean_top5": column(lambda one: (one.top5, 1)),
        "clean_nll": column(lambda one: (one.nll, 1)),
    }
    if any(one.held for one in results):
        found |= {
            "perturbed_accuracy": column(lambda one: (sum(one.held), len(one.held))),
            # Of the photographs that the network gets right.
            "flip_rate": column(lambda one: (len(one.held) - sum(one.held), len(one.held)) if one.top1 else (0, 0)),
            "perturbed_margin": column(lambda one: (sum(one.margins), len(one.margins))),
            "all_versions_hold": column(lambda one: (one.top1 and all(one.held), 1) if one.held else (0, 0)),
        }
    for level in results[0].attacked:
        found[f"pgd_accuracy_{level}"] = column(lambda one, at=level: (_survives(one, at), 1))  # type: ignore[misc]
    return found


def _survives(one: Measured, level: int) -> bool:
    return one.broken_at is None or one.broken_at > level


def summarise(results: Sequence[Measured]) -> dict[str, Interval]:
    """Return mean, 95 % interval and number of images of each figure. Figures without images are left out."""
    return {name: interval(sums) for name, sums in figures(results).items() if sums[:, 1].sum()}


def differences(results: Sequence[Measured], baseline: Sequence[Measured]) -> dict[str, Interval]:
    """Return the paired differences of two networks' figures on the same photographs, `results` minus `baseline`.

    Raises ValueError for other photographs.
    """
    if [one.identity for one in results] != [one.identity for one in baseline]:
        raise ValueError("the two networks were measured on different photographs")
    other = figures(baseline)
    return {
        name: interval(sums, other[name])
        for name, sums in figures(results).items()
        if name in other and sums[:, 1].sum() and other[name][:, 1].sum()
    }


def as_json(result: Measured) -> dict[str, Any]:
    """Return a result as JSON values; `from_json` reads it."""
    return asdict(result)


def from_json(fields: dict[str, Any]) -> Measured:
    """Return a result from its JSON values."""
    lists = {name: tuple(fields[name]) for name in ("held", "margins", "attacked")}
    return Measured(**(fields | lists))
