"""The fast gradient sign method: Goodfellow, Shlens and Szegedy (2015), arXiv:1412.6572."""

from perturb.attacks.base import SignedGradientAttack


class FGSM(SignedGradientAttack):
    """One step of the whole level along the gradient at the clean image; the level is searched from the smallest up.

    At each level the paper's cross-entropy goes first, then the margin, which turns more photographs.
    """

    steps = 1
    losses = ("cross_entropy", "margin")
    step_size = 1.0


attack = FGSM()
