"""What it takes to flip a network anew: changed values, level, gradients and CPU time of the project's own attacks."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from perturb.attacks import load_attack
from perturb.models.classifier import Classifier
from perturb.models.metrics import distances
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels
from perturb.schemas.report_card import Estimate, FreshAttack
from perturb.tasks.targets.estimates import each, ratio_of_medians, share
from perturb.tasks.targets.fresh import labels_of

FRESH = ("pgd", "fgsm", "grid")
# An attack on a small network takes a second; this ends one that never would.
_ATTACK_SECONDS = 600.0


@dataclass(frozen=True)
class Effort:
    """One attack on one photograph of `values` channel values."""

    flipped: bool
    level: int
    changed: int
    values: int
    gradients: int
    cpu_ms: float


def attack_anew(
    network: Classifier, name: str, pixels: Pixels, labels: npt.NDArray[np.int64], *, bounds: Bounds, seed: int
) -> list[Effort]:
    """Return what an attack needed for each of uint8 (N, H, W, 3), as a miner would answer: within `bounds`."""
    return [
        _attack_one(network, name, clean, int(label), bounds, seed) for clean, label in zip(pixels, labels, strict=True)
    ]


def _attack_one(network: Classifier, name: str, clean: Pixels, label: int, bounds: Bounds, seed: int) -> Effort:
    attack = load_attack(name)
    with _counted(network.module) as gradients:
        began = time.process_time()
        answer = attack(network, clean, label, bounds, deadline=time.monotonic() + _ATTACK_SECONDS, seed=seed)
        spent = time.process_time() - began
    distance = distances(clean, answer)
    flipped = int(labels_of(network, answer[None])[0]) != label
    return Effort(flipped, distance.linf_levels, distance.l0, clean.size, len(gradients), 1000 * spent)


@contextmanager
def _counted(module: nn.Module) -> Iterator[list[None]]:
    """Collect one item for each image of which a gradient is prepared."""
    seen: list[None] = []

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].requires_grad and torch.is_grad_enabled():
            seen.extend([None] * len(inputs[0]))

    hook = module.register_forward_pre_hook(count)
    try:
        yield seen
    finally:
        hook.remove()


def summarise(name: str, efforts: Sequence[Effort]) -> FreshAttack:
    """Return the summary of one attack on at least one photograph."""
    levels = [one.level for one in efforts if one.flipped]
    return FreshAttack.model_validate(
        {
            "attack": name,
            "one_level": share(each(np.array([one.flipped and one.level == 1 for one in efforts]))),
            "within_bounds": share(each(np.array([one.flipped for one in efforts]))),
            "changed_values": float(np.median(_changed(efforts))),
            "level": float(np.median(levels)) if levels else None,
            "gradients": float(np.median([one.gradients for one in efforts])),
            "cpu_ms": float(np.median([one.cpu_ms for one in efforts])),
        }
    )


def effort_ratio(own: Sequence[Effort], parent: Sequence[Effort]) -> Estimate | None:
    """Return the median of changed values divided by the parent's, on the same photographs."""
    return ratio_of_medians(_changed(own), _changed(parent))


def _changed(efforts: Sequence[Effort]) -> npt.NDArray[np.float64]:
    # Where nothing flips, not even all values would do.
    return np.array([one.changed if one.flipped else one.values for one in efforts], np.float64)
