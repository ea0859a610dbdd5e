"""The fast gradient sign method: Goodfellow, Shlens and Szegedy (2015), arXiv:1412.6572."""

from perturb.attacks.base import SignedGradientAttack


class FGSM(SignedGradientAttack):
    """One step of the whole level along the gradient at the clean image; the smallest level is tried first.

    At each level the paper's cross-entropy is tried first, then the margin, which flips more photographs.
    """

    steps = 1
    losses = ("cross_entropy", "margin")
    step_size = 1.0


attack = FGSM()
