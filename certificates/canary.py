"""The canary: networks with a planted weakness, which the attacks must find before a failure of theirs means anything.

Each is linear in the image. At the clean image the true class leads; it loses once the image moves by half of the
smallest level along a hidden pattern. Without a gradient the pattern is constant in each channel, which scores reveal.
After Zimmermann et al. 2022, "Increasing confidence in adversarial robustness evaluations", arXiv:2206.13991.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from perturb.certificates.autoattack import run_autoattack
from perturb.certificates.subject import TorchNetwork, torch_classifier
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS
from perturb.schemas.image import Pixels

COUNT = 20
_CLASSES = 10
_SIDE = 32
# The share of a full step along the pattern that is enough: about a half, and between the shares that whole steps of
# 3 * 32 * 32 values give, because Square ends where the two classes are exactly even.
_ENOUGH = 0.4999


class _Planted(nn.Module):
    """Logits (N, 10): class 0 is 0; class 1 is the projection on the pattern, less what is enough; the others -10."""

    def __init__(self, clean: torch.Tensor, pattern: torch.Tensor, enough: float):
        super().__init__()
        self.pattern = nn.Parameter(pattern / pattern[0].numel() * LEVELS)
        self.offset = nn.Parameter((clean * self.pattern).sum() + enough)
        self.rest = nn.Parameter(torch.full((_CLASSES - 2,), -10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of float (N, 3, 32, 32) in 0..1."""
        planted = (images * self.pattern).flatten(1).sum(1) - self.offset
        # The others differ a little, so that targeted losses have targets.
        ramp = torch.arange(_CLASSES - 2, dtype=images.dtype) / 100
        rest = (self.rest + ramp)[None] + 0 * planted[:, None]
        return torch.cat((0 * planted[:, None], planted[:, None], rest), dim=1)


def find_canaries(seed: bytes, *, level: int, attacks: Sequence[str], access: str) -> int:
    """Return in how many of `COUNT` planted networks these attacks find the weakness at `level`, as 8-bit images."""
    found = 0
    for number in range(COUNT):
        rng = np.random.default_rng(list(hashlib.sha256(seed + bytes([number])).digest()))
        classifier, pixels = planted(rng, level=level, smooth=access == "scores")
        outcome = run_autoattack(classifier, pixels, 0, level=level, seed=int(rng.integers(2**31)), attacks=attacks)
        found += outcome.found is not None
    return found


def planted(
    rng: np.random.Generator, *, level: int, smooth: bool, enough: float = _ENOUGH
) -> tuple[Classifier, Pixels]:
    """Return a network with a planted weakness, and the image, uint8 (32, 32, 3), at which it has it.

    It loses after the share `enough` of a full step of `level` along the pattern.
    """
    low, high = min(level, 100), max(LEVELS - level, 155)
    pixels: Pixels = rng.integers(low, high + 1, (_SIDE, _SIDE, 3), dtype=np.uint8)
    signs = rng.integers(0, 2, (3, 1, 1) if smooth else (3, _SIDE, _SIDE)) * 2 - 1
    pattern = torch.from_numpy(np.broadcast_to(signs, (3, _SIDE, _SIDE)).astype(np.float32).copy())
    clean = torch.from_numpy(pixels).permute(2, 0, 1).float() / LEVELS
    network = TorchNetwork(_Planted(clean, pattern / 3, enough * level), _SIDE, _SIDE)
    return torch_classifier("canary", network), pixels
