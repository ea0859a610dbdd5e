"""AutoAttack as `pyautoattack` ships it, unchanged, on one image; judged on 8-bit images.

A wrapper around the network sees every image that an attack tries. Where the network gives another label, the image is
rounded to whole levels and judged as a file would be. If it holds, the attack ends there: so one pass of an undefended
network costs two or three gradients instead of a hundred, and no success counts that rounding undoes (Bonnet, Furon and
Bas 2020). What AutoAttack itself would have reported is kept too, as `float_by`.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from perturb.models.classifier import Classifier
from perturb.models.prediction import predict_reproducibly
from perturb.schemas.bounds import LEVELS
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels

QUICK = ("apgd-ce", "apgd-t")
STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
SUITES = {"quick": QUICK, "standard": STANDARD}
# Targeted losses compare with the third and fourth best logit.
_FEWEST_CLASSES = 4
_TARGETS = 9
# What float32 adds to a distance of exactly epsilon.
_FLOAT_SLACK = 1e-6


def attacks_of(suite: str, *, num_classes: int, access: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the attacks of a suite that can run on a subject, and the reason for each that can't."""
    wanted = SUITES[suite]
    if access == "scores":
        reason = "needs a gradient, and this subject gives scores only"
        return ("square",), {name: reason for name in wanted if name != "square"}
    if num_classes >= _FEWEST_CLASSES:
        return wanted, {}
    reason = f"its targeted loss needs {_FEWEST_CLASSES} classes, and this subject has {num_classes}"
    return tuple(name for name in wanted if not name.endswith("-t")), {
        name: reason for name in wanted if name.endswith("-t")
    }


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """What AutoAttack did to one image at one level.

    `found` is the first 8-bit image inside the bound with another label, uint8 (H, W, 3), and `by` the attack that
    found it; both None where there was none. `float_by` is the attack after which AutoAttack itself counts the image as
    broken, in real numbers. `forwards` counts passes, `backwards` those of them with a gradient.
    """

    found: Pixels | None
    by: str | None
    float_by: str | None
    forwards: int
    backwards: int


class _Found(Exception):
    """Ends an attack: an 8-bit image that breaks the label was found."""


class _Observed(nn.Module):
    """The network as an attack sees it; looks at each image of a batch of one."""

    def __init__(self, classifier: Classifier, clean: Pixels, label: int, level: int, *, early_stop: bool):
        super().__init__()
        self._classifier, self._clean, self._label, self._level = classifier, clean, label, level
        self._early_stop = early_stop
        self._origin = _as_input(clean)
        self._judged: set[bytes] = set()
        self.found: Pixels | None = None
        self.forwards = self.backwards = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits. Raises `_Found`, and ModelError for a logit that is not finite."""
        self.forwards += len(images)
        self.backwards += len(images) * (images.requires_grad and torch.is_grad_enabled())
        logits: torch.Tensor = self._classifier.module(images)
        if not bool(torch.isfinite(logits).all()):
            raise ModelError(
                f"subject {self._classifier.name} gave a logit that is not a finite number while it was attacked; "
                "such a network can't be certified"
            )
        if self.found is None and len(images) == 1 and int(logits.argmax()) != self._label:
            self._look(images.detach())
        return logits

    def _look(self, image: torch.Tensor) -> None:
        distance = float((image - self._origin).abs().max())
        if distance > (self._level + 0.5) / LEVELS:
            return
        rounded = (image[0] * LEVELS).round().clamp(0, LEVELS).to(torch.uint8).permute(1, 2, 0).numpy()
        pixels: Pixels = np.ascontiguousarray(rounded)
        if int(np.abs(pixels.astype(np.int16) - self._clean).max()) > self._level:
            return
        seen = hashlib.blake2b(pixels.data, digest_size=16).digest()
        if seen in self._judged:
            return
        self._judged.add(seen)
        if not breaks(self._classifier, pixels, self._label):
            return
        self.found = pixels
        # An image that lies outside epsilon in real numbers is no success of AutoAttack's own.
        if self._early_stop and distance <= self._level / LEVELS + _FLOAT_SLACK:
            raise _Found


def breaks(classifier: Classifier, pixels: Pixels, label: int) -> bool:
    """Return whether the network gives an 8-bit image another label, decided alike on every device."""
    (found,) = predict_reproducibly(pixels[None], true_label=label, classifier=classifier, boundaries=())
    return found.label != label


def run_autoattack(
    classifier: Classifier,
    clean: Pixels,
    label: int,
    *,
    level: int,
    seed: int,
    attacks: Sequence[str],
    early_stop: bool = True,
) -> AttackOutcome:
    """Run AutoAttack's attacks in their order on one image, uint8 (H, W, 3), at epsilon = level / 255.

    The next attack runs while no 8-bit image was found. `seed` is AutoAttack's own argument, so the float result is
    that of its `run_standard_evaluation` with the same seed and a batch of this image alone. Without `early_stop` each
    attack does all its iterations.
    """
    observed = _Observed(classifier, clean, label, level, early_stop=early_stop)
    runs = _runs(observed, classifier.num_classes, level, seed)
    image, target = _as_input(clean), torch.tensor([label])
    by: str | None = None
    float_by: str | None = None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name in attacks:
            try:
                answer = runs[name](image.clone(), target.clone())
                fell = int(classifier.module(answer).argmax()) != label
            except _Found:
                fell = True
            if fell and float_by is None:
                float_by = name
            if observed.found is not None:
                by = name
                break
    return AttackOutcome(observed.found, by, float_by, observed.forwards, observed.backwards)


def _runs(
    observed: _Observed, num_classes: int, level: int, seed: int
) -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """AutoAttack's attacks with the parameters of its `standard` version, as `run_standard_evaluation` calls them."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    suite = AutoAttack(observed, norm="Linf", eps=level / LEVELS, seed=seed, version="standard", device="cpu")
    suite.apgd.loss = "ce"
    suite.fab.targeted = True
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(_TARGETS, num_classes - 1)
    return {
        "apgd-ce": suite.apgd.perturb,
        "apgd-t": suite.apgd_targeted.perturb,
        "fab-t": suite.fab.perturb,
        "square": suite.square.perturb,
    }


def _as_input(pixels: Pixels) -> torch.Tensor:
    """uint8 (H, W, 3) as the network's input: float32 (1, 3, H, W) in 0..1."""
    # Contiguous, because AutoAttack takes views of tensors of this layout.
    return (torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / LEVELS).contiguous()
