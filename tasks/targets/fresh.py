"""Attacks that are made anew against a network, many photographs at once: FGSM, PGD, and noise to compare with.

Cross-entropy is what they increase, as in the papers: a network whose loss is flat is then seen as what it is, one
that hides its gradients. A photograph that has flipped is not attacked further.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS
from perturb.schemas.image import Pixels

Flags = npt.NDArray[np.bool_]
# On a CPU larger batches are not faster.
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Attacked:
    """The attacked images, float32 (N, 3, H, W) in levels 0..255, and whether each flips the network, bool (N,)."""

    images: torch.Tensor
    flipped: Flags

    @property
    def pixels(self) -> Pixels:
        """The images as uint8 (N, H, W, 3); of a whole level they are on this grid already."""
        pixels: Pixels = self.images.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return pixels


def fgsm(network: Classifier, pixels: Pixels, labels: npt.NDArray[np.int64], *, level: float) -> Attacked:
    """Return uint8 (N, H, W, 3) after one signed step of `level` (Goodfellow et al. 2015, arXiv:1412.6572)."""
    return _attack(network, pixels, labels, level=level, steps=1, step_size=1.0, seed=None)


def pgd(
    network: Classifier, pixels: Pixels, labels: npt.NDArray[np.int64], *, level: float, steps: int = 10, seed: int = 0
) -> Attacked:
    """Return uint8 (N, H, W, 3) after PGD from a random start, steps of a quarter (Madry 2018, arXiv:1706.06083).

    `level` is the L-inf bound in levels of 255. Whole levels are judged after rounding to 8 bits, others as they are.
    """
    return _attack(network, pixels, labels, level=level, steps=steps, step_size=0.25, seed=seed)


def noise(pixels: Pixels, *, level: int, seed: int = 0) -> Pixels:
    """Return uint8 images of the same shape with uniform noise of at most `level`."""
    random = np.random.default_rng(seed)
    moved = pixels.astype(np.int16) + random.integers(-level, level + 1, pixels.shape, dtype=np.int16)
    noisy: Pixels = np.clip(moved, 0, LEVELS).astype(np.uint8)
    return noisy


def labels_of(network: Classifier, pixels: Pixels) -> npt.NDArray[np.int64]:
    """Return the label that the network gives each of uint8 (N, H, W, 3), int64 (N,)."""
    labels: npt.NDArray[np.int64] = network.logits(pixels).argmax(axis=1)
    return labels


def _attack(
    network: Classifier,
    pixels: Pixels,
    labels: npt.NDArray[np.int64],
    *,
    level: float,
    steps: int,
    step_size: float,
    seed: int | None,
) -> Attacked:
    random = None if seed is None else torch.Generator().manual_seed(seed)
    parts = []
    for at in range(0, len(pixels), _BATCH):
        batch = torch.from_numpy(pixels[at : at + _BATCH].copy()).permute(0, 3, 1, 2).float().to(network.device)
        truth = torch.from_numpy(labels[at : at + _BATCH]).to(network.device)
        start = torch.zeros_like(batch)
        if random is not None:
            start = ((2 * torch.rand(batch.shape, generator=random) - 1) * level).to(network.device)
        parts.append(_climb(network, batch, truth, start, level=level, steps=steps, step=step_size * level))
    return Attacked(
        torch.cat([part.images for part in parts]), np.concatenate([part.flipped for part in parts]).astype(bool)
    )


def _climb(
    network: Classifier,
    clean: torch.Tensor,
    truth: torch.Tensor,
    start: torch.Tensor,
    *,
    level: float,
    steps: int,
    step: float,
) -> Attacked:
    whole = float(level).is_integer()
    low, high = (clean - level).clamp(min=0), (clean + level).clamp(max=LEVELS)
    images = (clean + start).clamp(low, high)
    judged, flipped = images.clone(), torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    for _ in range(steps):
        open_ = ~flipped
        if not bool(open_.any()):
            break
        point = images[open_].requires_grad_(True)
        loss = functional.cross_entropy(network.module(point / LEVELS), truth[open_], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        moved = (point.detach() + step * gradient.sign()).clamp(low[open_], high[open_])
        images[open_] = moved
        judged[open_] = moved.round() if whole else moved
        with torch.no_grad():
            flipped[open_] = network.module(judged[open_] / LEVELS).argmax(dim=1) != truth[open_]
    return Attacked(judged.cpu(), flipped.cpu().numpy())
