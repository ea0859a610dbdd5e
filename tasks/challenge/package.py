"""From a photograph to a challenge worth sending, or the reason why it is unfit."""

import secrets
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge, judge_for
from perturb.models.prediction import predict
from perturb.schemas.challenge import Challenge, Origin, Photo, Task
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.settings import Settings


@dataclass(frozen=True)
class Unfit:
    """A photograph that makes no challenge: `reason` is counted, `detail` says it with numbers."""

    reason: str
    detail: str


def make_challenge(
    photo: Photo, *, classifier: Classifier, judge: Judge, settings: Settings, now: datetime
) -> Challenge | Unfit:
    """Return `photo` as a challenge under the pixel contract, or why it is unfit.

    The classifier's prediction becomes the true label only where the source's class agrees with it or, for a
    source that knows no class, where the judge finds that the label belongs to the photograph's subject; and only
    where the clean image stands clear of the decision boundary (`settings.challenge`).
    """
    judge = judge_for(judge, num_classes=classifier.num_classes)
    pixels = classifier.prepare(photo.pixels)
    logits = classifier.logits(pixels[None])[0]
    clean = predict(logits)
    clean_margin = -clean.margin
    name = classifier.label_name(clean.label)
    if photo.true_class is not None and photo.true_class != clean.label:
        truth = classifier.label_name(photo.true_class)
        return Unfit("misclassified", f"the source says {truth!r}, the classifier {name!r}")
    if clean_margin < settings.challenge.min_clean_margin:
        return Unfit("low_margin", f"clean margin {clean_margin:.2f} < {settings.challenge.min_clean_margin:g} logits")
    if clean.confidence < settings.challenge.min_clean_confidence:
        return Unfit(
            "low_confidence", f"clean confidence {clean.confidence:.2f} < {settings.challenge.min_clean_confidence:g}"
        )
    if photo.true_class is None and photo.subject is None:
        return Unfit("unknown_subject", "the source knows neither class nor subject, so the label cannot be checked")
    subject_score = None
    if photo.subject is not None:
        (judgement,) = judge.belongs([(clean.label, photo.subject)])
        subject_score = judgement.score
        if photo.true_class is None and not judgement.holds:
            return Unfit("off_subject", f"the judge finds no {name!r} in the subject {photo.subject!r}")
    return Challenge(
        round_id=f"{now:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}",
        created_at=now,
        task=Task(
            task_id=secrets.token_hex(16),
            true_label=clean.label,
            true_label_name=name,
            classifier=classifier.name,
            classifier_sha256=classifier.sha256,
            bounds=settings.bounds,
            timeout_ms=settings.challenge.timeout_ms,
            height=pixels.shape[0],
            width=pixels.shape[1],
            original_sha256=pixel_identity(pixels),
            excluded_labels=_same_kind(logits, clean.label, judge, settings.challenge.judged_neighbours),
        ),
        origin=Origin(
            source=photo.source,
            source_id=photo.source_id,
            source_url=photo.source_url,
            author=photo.author,
            license=photo.license,
            subject=photo.subject,
            true_class=photo.true_class,
            synset=classifier.synset(clean.label),
            clean_confidence=clean.confidence,
            clean_margin=clean_margin,
            subject_score=subject_score,
            judge=judge.name,
            judge_sha256=judge.sha256,
        ),
        png=encode_png(pixels),
    )


def _same_kind(logits: np.ndarray, label: int, judge: Judge, number: int) -> tuple[int, ...]:
    """Of the `number` labels nearest to the true one, those that a miner must not flip to: they mean the same."""
    nearest = [int(other) for other in np.argsort(-logits) if other != label][:number]
    judged = judge.same_kind([(label, other) for other in nearest]) if nearest else []
    return tuple(sorted(other for other, judgement in zip(nearest, judged, strict=True) if judgement.holds))
