"""What a row of logits says, and predictions that no batch size and no device can change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perturb.models.classifier import Classifier
from perturb.schemas.image import Pixels

# Single precision moves logits by 1e-5 to 1e-4 between batch sizes and devices. A decision that is nearer to its
# boundary than this (in logits) is taken in double precision, one image at a time, and so is the same everywhere.
DOUBLE_PRECISION_BAND = 1e-3


@dataclass(frozen=True)
class Prediction:
    """What a row of logits says about one image, given its true label.

    `margin` is the best other logit minus the true label's; `confidence` is the softmax probability of `label`;
    `runner_up` is how far the best label other than the true one is ahead of the next such label, in logits.
    """

    label: int
    margin: float
    confidence: float
    runner_up: float

    def flipped(self, true_label: int, tolerance: float) -> bool:
        """Return whether another label wins by more than `tolerance` logits."""
        return self.label != true_label and self.margin > tolerance


def predict(logits: npt.NDArray[np.float32] | npt.NDArray[np.float64], *, true_label: int | None = None) -> Prediction:
    """Return what one row of logits (C,) says. Without a `true_label` the row's own best label is taken as true."""
    row = logits.astype(np.float64)
    label = int(row.argmax())
    true = label if true_label is None else true_label
    others = np.sort(np.delete(row, true))
    exponentials = np.exp(row - row[label])
    return Prediction(
        label=label,
        margin=float(others[-1] - row[true]),
        confidence=float(1 / exponentials.sum()),
        runner_up=float(others[-1] - others[-2]) if others.size > 1 else float("inf"),
    )


def predict_reproducibly(
    pixels: Pixels, *, true_label: int, classifier: Classifier, boundaries: Sequence[float]
) -> list[Prediction]:
    """Return the predictions for uint8 (N, H, W, 3), decided alike on every device and in every batch.

    `boundaries` are the margins, in logits, at which a decision changes. 0, where the label changes, is always one.
    """
    predictions = [predict(row, true_label=true_label) for row in classifier.logits(pixels)]
    unsure = [i for i, found in enumerate(predictions) if _near_a_boundary(found, (0.0, *boundaries))]
    for i, row in zip(unsure, classifier.exact_logits(pixels[unsure]), strict=True):
        predictions[i] = predict(row, true_label=true_label)
    return predictions


def _near_a_boundary(found: Prediction, boundaries: Sequence[float]) -> bool:
    tied = found.margin > -DOUBLE_PRECISION_BAND and found.runner_up < DOUBLE_PRECISION_BAND
    return tied or any(abs(found.margin - boundary) < DOUBLE_PRECISION_BAND for boundary in boundaries)
