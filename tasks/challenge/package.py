"""From a photograph to a challenge worth sending, or the reason why it is unfit."""

import secrets
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from perturb.models.classifier import Classifier
from perturb.models.hypernyms import covered_labels
from perturb.models.judge.judge import Judge, judge_for
from perturb.models.prediction import predict
from perturb.schemas.challenge import Challenge, Origin, Photo, Terms, new_round_id
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.line_up import DrawnTarget
from perturb.schemas.settings import Settings
from perturb.schemas.target import target_name


@dataclass(frozen=True)
class Unfit:
    """A photograph that makes no challenge: `reason` is counted, `detail` says it with numbers."""

    reason: str
    detail: str


def make_challenge(
    photo: Photo,
    *,
    classifier: Classifier,
    judge: Judge,
    settings: Settings,
    now: datetime,
    drawn: DrawnTarget | None = None,
) -> Challenge | Unfit:
    """Return `photo` as a challenge under the pixel contract, or why it is unfit.

    `drawn` is the draw that chose `classifier`; without it, the classifier is the only target, in a round of a new id.

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
        round_id=new_round_id(now) if drawn is None else drawn.round_id,
        created_at=now,
        task=Terms(
            task_salt=secrets.token_hex(16),
            true_label=clean.label,
            true_label_name=name,
            classifier=classifier.name,
            classifier_sha256=classifier.sha256,
            bounds=settings.bounds,
            timeout_ms=settings.challenge.timeout_ms,
            height=pixels.shape[0],
            width=pixels.shape[1],
            original_sha256=pixel_identity(pixels),
            excluded_labels=_excluded(logits, clean.label, photo.subject, judge, settings.challenge.judged_neighbours),
        ).as_task(),
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
            target=target_name(classifier.name, classifier.sha256) if drawn is None else drawn.target,
            log_size=None if drawn is None else drawn.log_size,
        ),
        png=encode_png(pixels),
    )


def _excluded(
    logits: np.ndarray, label: int, subject: str | None, judge: Judge, judged_neighbours: int
) -> tuple[int, ...]:
    """The labels that a miner must not flip to.

    They are those that the photograph's subject covers by WordNet, and those of the labels nearest to the true one that
    mean the same to the judge.
    """
    nearest = [int(other) for other in np.argsort(-logits) if other != label][:judged_neighbours]
    judged = judge.same_kind([(label, other) for other in nearest]) if nearest else []
    same_kind = {other for other, judgement in zip(nearest, judged, strict=True) if judgement.holds}
    covered = covered_labels(subject, label) if len(logits) == NUM_CLASSES else ()
    return tuple(sorted(same_kind.union(covered)))
