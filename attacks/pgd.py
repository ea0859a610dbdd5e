"""Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv:1706.06083."""

import torch

from perturb.attacks.base import Problem, SignedGradientAttack


class PGD(SignedGradientAttack):
    """Ten steps of a quarter of the level, from a random point of the box."""

    def start(self, problem: Problem, levels: int, random: torch.Generator) -> torch.Tensor:
        """Return a change that is uniform in the box of `levels`."""
        low, high = problem.allowed_change(levels)
        share = torch.rand(low.shape, generator=random).to(low.device)
        return low + (high - low) * share


attack = PGD()
