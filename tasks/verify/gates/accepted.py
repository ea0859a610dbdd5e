"""Steps behind the last gate: columns that only accepted answers have. They refuse nothing."""

import io
import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.prediction import predict_reproducibly
from perturb.schemas.image import Pixels
from perturb.schemas.png import PngRefused
from perturb.schemas.verdict import Persistence, Transfer
from perturb.tasks.verify.case import Case, fastest_first
from perturb.tasks.verify.context import RoundContext
from perturb.tasks.verify.gates.base import EQUAL, Columns, Gate

logger = logging.getLogger(__name__)
NEAR_DUPLICATE_COSINE = 0.95
_COSINE_BLOCK = 2**16


class NearDuplicates(Gate):
    """Marks answers whose perturbation has a cosine above 0.95 with that of a faster one.

    They keep their score. The mark lets a consumer of the dataset leave out what adds little.
    """

    name = "near duplicates"
    columns: ClassVar[Columns] = {"near_duplicate_of": None}
    scope = "round"

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Compare every two perturbations of the round. Answers of slices are decoded again first."""
        ordered = fastest_first(_with_pixels(cases, context))
        cosines = perturbation_cosines([case.image() for case in ordered], context.clean)
        for place, case in enumerate(ordered):
            near = np.flatnonzero(cosines[place, :place] > NEAR_DUPLICATE_COSINE)
            if near.size:
                case.findings.near_duplicate_of = ordered[int(near[0])].record_id(context)


def _with_pixels(cases: Sequence[Case], context: RoundContext) -> list[Case]:
    """The cases that have pixels. A slice has decoded all of them: a failure here is this machine's own."""
    task, missing = context.task, [case for case in cases if case.pixels is None]
    bodies = [case.response.body for case in missing]
    for case, result in zip(missing, context.pool.decode(bodies, height=task.height, width=task.width), strict=True):
        if isinstance(result, PngRefused):
            logger.warning(
                "the answer of miner %d is not compared with others: %s", case.response.miner_uid, result.detail
            )
        else:
            case.pixels = result
    return [case for case in cases if case.pixels is not None]


def perturbation_cosines(images: Sequence[Pixels], clean: Pixels) -> npt.NDArray[np.float64]:
    """Return cosines between perturbations of uint8 images against `clean`, float64 (n, n); 0 where one is empty."""
    flat = [image.reshape(-1) for image in images]
    reference = clean.reshape(-1)
    gram = np.zeros((len(images), len(images)))
    # Block by block: the perturbations of a whole round as floats would take gigabytes.
    for start in range(0, reference.size if images else 0, _COSINE_BLOCK):
        block = slice(start, start + _COSINE_BLOCK)
        delta = np.stack([image[block] for image in flat]).astype(np.float32)
        delta -= reference[block]
        gram += delta @ delta.T
    norms = np.sqrt(np.diag(gram))
    cosines: npt.NDArray[np.float64] = gram / np.maximum(np.outer(norms, norms), 1e-12)
    return cosines


class TryPersistence(Gate):
    """Tells whether the flip survives JPEG at quality 95, at 75, and a round trip through half the size."""

    name = "persistence"
    columns: ClassVar[Columns] = {"persists": EQUAL}
    optional = True

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Change the images in each way, and run the classifier over all of them together."""
        if not cases or not context.settings.persistence:
            return
        true_label, tolerance = context.task.true_label, context.settings.margin_tolerance

        def survive(changed: list[Pixels]) -> list[bool]:
            predictions = predict_reproducibly(
                np.stack(changed), true_label=true_label, classifier=context.classifier, boundaries=(tolerance,)
            )
            return [found.flipped(true_label, tolerance) for found in predictions]

        images = [case.image() for case in cases]
        jpeg95 = survive([_jpeg(image, 95) for image in images])
        jpeg75 = survive([_jpeg(image, 75) for image in images])
        half_size = survive([_half_size(image) for image in images])
        for place, case in enumerate(cases):
            case.findings.persists = Persistence(jpeg95=jpeg95[place], jpeg75=jpeg75[place], half_size=half_size[place])


def _jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image)


def _half_size(pixels: Pixels) -> Pixels:
    image = Image.fromarray(pixels)
    half = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)
    return np.asarray(half.resize(image.size, Image.Resampling.BICUBIC))


class TryTransfer(Gate):
    """Tells what the classifiers of `settings.transfer` predict.

    `flipped` needs that the other classifier predicts the clean image's label right. Images are resized (bicubic) to
    its input; nothing is cropped a second time.
    """

    name = "transfer"
    columns: ClassVar[Columns] = {"transfer": EQUAL}
    optional = True

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Run each classifier. Raises ModelError when one of them can't be loaded, or has other classes."""
        settings, true_label = context.settings, context.task.true_label
        if not cases or not settings.transfer:
            return
        rows: list[list[Transfer]] = [[] for _ in cases]
        for name in settings.transfer:
            other = load_classifier(settings, name=name)
            other.check_label(true_label)
            images = np.stack([_resized(pixels, other) for pixels in (context.clean, *(c.image() for c in cases))])
            clean, *predictions = predict_reproducibly(
                images, true_label=true_label, classifier=other, boundaries=(settings.margin_tolerance,)
            )
            for row, found in zip(rows, predictions, strict=True):
                flipped = clean.label == true_label and found.flipped(true_label, settings.margin_tolerance)
                row.append(
                    Transfer(
                        classifier=other.name, classifier_sha256=other.sha256, flipped=flipped, margin=found.margin
                    )
                )
        for case, row in zip(cases, rows, strict=True):
            case.findings.transfer = tuple(row)


def _resized(pixels: Pixels, other: Classifier) -> Pixels:
    image = Image.fromarray(pixels).resize((other.width, other.height), Image.Resampling.BICUBIC)
    return np.asarray(image)
