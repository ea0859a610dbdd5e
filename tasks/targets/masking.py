"""Checks for masked gradients: Athalye, Carlini and Wagner (2018), arXiv:1802.00420, section 3.1."""

import numpy as np
import numpy.typing as npt

from perturb.models.classifier import Classifier
from perturb.schemas.image import Pixels
from perturb.schemas.report_card import Masking
from perturb.tasks.targets.estimates import each, share
from perturb.tasks.targets.fresh import Flags, fgsm, labels_of, noise, pgd


def measure_masking(
    challenger: Classifier, parent: Classifier, pixels: Pixels, labels: npt.NDArray[np.int64], *, seed: int
) -> Masking:
    """Return the flip shares on uint8 (N, H, W, 3) that both networks get right. Attacks are at one level of 255.

    Perturbations of the parent are compared with PGD against the challenger on the same photographs.
    """
    transferred = pgd(parent, pixels, labels, level=1, seed=seed).pixels
    noisy = noise(pixels, level=1, seed=seed)
    flags: dict[str, Flags] = {
        "fgsm": fgsm(challenger, pixels, labels, level=1).flipped,
        "pgd": pgd(challenger, pixels, labels, level=1, seed=seed).flipped,
        "pgd_50_steps": pgd(challenger, pixels, labels, level=1, steps=50, seed=seed).flipped,
        "pgd_8_levels": pgd(challenger, pixels, labels, level=8, seed=seed).flipped,
        "transferred": labels_of(challenger, transferred) != labels,
        "noise": labels_of(challenger, noisy) != labels,
        "noise_parent": labels_of(parent, noisy) != labels,
    }
    return Masking.model_validate({name: share(each(flag)) for name, flag in flags.items()})
