"""The gates that ask a model: does the label flip, and does the flip mean something. And what flips survive."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.challenge import Task
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.settings import ClassifierSettings
from perturb.schemas.verdict import Persistence, Transfer
from perturb.tasks.verify.gates.pixel import Case

if TYPE_CHECKING:
    from perturb.models.judge.judge import Judge

# Single precision moves logits by 1e-5 to 1e-4 between batch sizes and devices. A decision that is nearer to its
# boundary than this is taken in double precision, one image at a time, and so is the same everywhere.
SETTLE = 1e-3


@dataclass(frozen=True)
class Prediction:
    """What a row of logits says. `margin` is best other logit minus true logit; `confidence` is `label`'s softmax."""

    label: int
    margin: float
    confidence: float
    runner_up: float
    """How far the best label other than the true one is ahead of the next, in logits."""

    def flipped(self, true_label: int, tolerance: float) -> bool:
        """Whether another label won, by more than the tolerance."""
        return self.label != true_label and self.margin > tolerance


def predict(logits: npt.NDArray[Any], *, true_label: int | None) -> Prediction:
    """Reads one row of logits (C,); `true_label` None takes the row's own best."""
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


def predict_surely(
    pixels: Pixels, *, true_label: int, classifier: Classifier, boundaries: Sequence[float]
) -> list[Prediction]:
    """Predictions for uint8 (N, H, W, 3) that no batch size or device can turn.

    `boundaries` are the margins at which a decision changes; 0, where the label does, is always one of them.
    """
    predictions = [predict(row, true_label=true_label) for row in classifier.logits(pixels)]
    unsure = [i for i, found in enumerate(predictions) if _near_a_boundary(found, (0.0, *boundaries))]
    for i, row in zip(unsure, classifier.exact_logits(pixels[unsure]), strict=True):
        predictions[i] = predict(row, true_label=true_label)
    return predictions


def _near_a_boundary(found: Prediction, boundaries: Sequence[float]) -> bool:
    tied = found.margin > -SETTLE and found.runner_up < SETTLE
    return tied or any(abs(found.margin - boundary) < SETTLE for boundary in boundaries)


def decide_flips(cases: Sequence[Case], *, task: Task, classifier: Classifier, settings: ClassifierSettings) -> None:
    """One batched forward over all cases; refuses those in which the true label still wins, or loses too narrowly."""
    if not cases:
        return
    tolerance = settings.margin_tolerance
    predictions = predict_surely(
        np.stack([case.image() for case in cases]),
        true_label=task.true_label,
        classifier=classifier,
        boundaries=(tolerance, task.bounds.min_margin),
    )
    for case, found in zip(cases, predictions, strict=True):
        case.found |= {
            "adversarial_label": found.label,
            "adversarial_label_name": classifier.label_name(found.label),
            "adversarial_confidence": found.confidence,
            "margin": found.margin,
        }
        if not found.flipped(task.true_label, tolerance):
            case.refuse(Outcome.NO_FLIP, _no_flip(found, task, classifier, tolerance))


def _no_flip(found: Prediction, task: Task, classifier: Classifier, tolerance: float) -> str:
    if found.label == task.true_label:
        return (
            f"the classifier still sees {task.true_label_name!r} (confidence {found.confidence:.2f}), "
            f"{-found.margin:.3f} logits ahead of the next label; attack the rounded 8-bit image until another label "
            f"leads by {task.bounds.min_margin:g}"
        )
    return (
        f"{classifier.label_name(found.label)!r} leads by {found.margin:.4f} logits, a flip counts above "
        f"{tolerance:g}; push it to {task.bounds.min_margin:g}, below which nothing is earned"
    )


def decide_mismatch(cases: Sequence[Case], *, task: Task, classifier: Classifier, judge: "Judge") -> None:
    """Asks the judge once for each label that came out; refuses flips to another name of the same kind of thing."""
    labels = sorted({case.found["adversarial_label"] for case in cases})
    judgements = judge.same_kind([(task.true_label, label) for label in labels]) if labels else []
    answers = dict(zip(labels, judgements, strict=True))
    for case in cases:
        judgement = answers[case.found["adversarial_label"]]
        case.found |= {"semantic_score": judgement.score, "semantic_mismatch": not judgement.holds}
        if judgement.holds:
            case.refuse(
                Outcome.SEMANTIC_MATCH,
                f"{case.found['adversarial_label_name']!r} is the same kind of thing as {task.true_label_name!r} to "
                f"{judge.name}; steer the attack to a label that means something else",
            )


def try_persistence(cases: Sequence[Case], *, task: Task, classifier: Classifier, settings: ClassifierSettings) -> None:
    """Whether the flip is still there after JPEG 95, JPEG 75 and a half-size round trip, in the same batches."""
    variants = {"jpeg95": _jpeg(95), "jpeg75": _jpeg(75), "half_size": _half_size}
    if not cases:
        return
    survived: dict[str, list[bool]] = {}
    for name, change in variants.items():
        predictions = predict_surely(
            np.stack([change(case.image()) for case in cases]),
            true_label=task.true_label,
            classifier=classifier,
            boundaries=(settings.margin_tolerance,),
        )
        survived[name] = [found.flipped(task.true_label, settings.margin_tolerance) for found in predictions]
    for place, case in enumerate(cases):
        case.found["persists"] = Persistence(**{name: flags[place] for name, flags in survived.items()})


def _jpeg(quality: int) -> Any:
    def change(pixels: Pixels) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
        with Image.open(buffer) as image:
            return np.asarray(image)

    return change


def _half_size(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    half = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)
    return np.asarray(half.resize(image.size, Image.Resampling.BICUBIC))


def try_transfer(cases: Sequence[Case], clean: Pixels, *, task: Task, settings: ClassifierSettings) -> None:
    """What the classifiers of `settings.transfer` say. `flipped` needs that they see the clean image's label right.

    Images are resized (bicubic) to the other classifier's input; nothing is cropped a second time.
    Raises ModelError when one of them can't be loaded, or has other classes.
    """
    if not cases:
        return
    found: list[list[Transfer]] = [[] for _ in cases]
    for name in settings.transfer:
        other = load_classifier(settings, name=name)
        other.check_label(task.true_label)
        images = np.stack([_resized(pixels, other) for pixels in (clean, *(case.image() for case in cases))])
        own, *predictions = predict_surely(
            images, true_label=task.true_label, classifier=other, boundaries=(settings.margin_tolerance,)
        )
        for row, prediction in zip(found, predictions, strict=True):
            flipped = own.label == task.true_label and prediction.flipped(task.true_label, settings.margin_tolerance)
            row.append(
                Transfer(
                    classifier=other.name, classifier_sha256=other.sha256, flipped=flipped, margin=prediction.margin
                )
            )
    for case, row in zip(cases, found, strict=True):
        case.found["transfer"] = tuple(row)


def _resized(pixels: Pixels, other: Classifier) -> Pixels:
    image = Image.fromarray(pixels).resize((other.width, other.height), Image.Resampling.BICUBIC)
    return np.asarray(image)
