"""The momentum iterative method: Dong, Liao, Pang, Su, Zhu, Hu and Li (2018), arXiv:1710.06081."""

import torch

from perturb.attacks.base import SignedGradientAttack

_DECAY = 1.0


class MIFGSM(SignedGradientAttack):
    """Ten steps of a tenth of the level along the sum of all gradients so far, each scaled to unit L1 norm."""

    step_size = 0.1

    def direction(self, gradient: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
        """Return the accumulated gradient."""
        scaled = gradient / gradient.abs().mean().clamp(min=1e-30)
        return scaled if memory is None else _DECAY * memory + scaled


attack = MIFGSM()
