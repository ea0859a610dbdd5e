"""A classifier for attacks that must avoid some labels besides the true one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from perturb.models.classifier import Classifier
from perturb.schemas.image import Pixels

# Below every logit of a classifier, and finite, so that gradients stay numbers.
_NEVER = -1e4


class MaskedClassifier:
    """`classifier` with the `excluded` labels merged into `label`.

    The true label has the largest logit of them, and the excluded labels have a logit that never wins. So the label and
    margin to which an attack flips this classifier hold for `classifier` too. Apart from `logits` and `module`, all
    attributes are those of `classifier`.
    """

    def __init__(self, classifier: Classifier, label: int, excluded: Sequence[int]):
        self._classifier = classifier
        self._label = label
        self._excluded = [classifier.check_label(other) for other in excluded if other != label]
        self.module = _MaskedModule(classifier.module, label, self._excluded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._classifier, name)

    def logits(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return logits, float32 (N, classes), of uint8 (N, height, width, 3)."""
        logits = self._classifier.logits(pixels).copy()
        logits[:, self._label] = logits[:, [self._label, *self._excluded]].max(axis=1)
        logits[:, self._excluded] = _NEVER
        return logits


class _MaskedModule(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, label: int, excluded: list[int]):
        super().__init__()
        self.inner = module
        self._label = label
        self._excluded = excluded

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(images)
        merged = logits.clone()
        merged[:, self._label] = logits[:, [self._label, *self._excluded]].amax(dim=1)
        merged[:, self._excluded] = _NEVER
        return merged
