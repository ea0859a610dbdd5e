"""Projected gradient descent: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv:1706.06083."""

import torch

from perturb.attacks.base import Problem, SignedGradientAttack


class PGD(SignedGradientAttack):
    """Steps of a quarter of the level from a random point of the box, ten of them."""

    def start(self, problem: Problem, levels: int, random: torch.Generator) -> torch.Tensor:
        """Uniform in the box of `levels`."""
        low, high = problem.room(levels)
        share = torch.rand(low.shape, generator=random).to(low.device)
        return low + (high - low) * share


attack = PGD()
