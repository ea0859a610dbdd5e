"""The verdict and score of a single pair of files, as a miner asks for it before sending."""

from dataclasses import dataclass
from datetime import UTC, datetime

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.models.prediction import predict
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task, Terms
from perturb.schemas.errors import SourceError
from perturb.schemas.image import pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Score, Verdict
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score


@dataclass(frozen=True)
class PairVerdict:
    """What a validator says about one pair of files.

    `clean_label`, `clean_confidence` and `clean_margin` are the classifier's view of the clean image (margin: the
    task's label against the best other, logits); `notes` say why no validator would send such a challenge.
    """

    task: Task
    verdict: Verdict
    score: Score
    clean_label: int
    clean_label_name: str
    clean_confidence: float
    clean_margin: float
    notes: tuple[str, ...]


def verify_pair(
    clean_png: bytes,
    perturbed: bytes,
    *,
    label: int | None,
    classifier: Classifier,
    judge: Judge,
    settings: Settings,
    response_ms: float = 0.0,
    bounds: Bounds | None = None,
) -> PairVerdict:
    """Return the verdict and score that a validator with these settings gives, through `verify` itself.

    `label` None takes the classifier's prediction on the clean image. Raises SourceError when the clean image is
    not an 8-bit RGB PNG of the classifier's input size, ModelError for a label outside the classes.
    """
    try:
        clean = read_png(clean_png, height=classifier.height, width=classifier.width)
    except PngRefused as refused:
        raise SourceError(f"the clean image can't be a challenge: {refused.detail}") from refused
    logits = classifier.logits(clean[None])[0]
    predicted = predict(logits)
    true_label = predicted.label if label is None else classifier.check_label(label)
    clean_margin = -predict(logits, true_label=true_label).margin
    identity = pixel_identity(clean)
    task = Terms(
        task_salt=identity[:32],
        true_label=true_label,
        true_label_name=classifier.label_name(true_label),
        classifier=classifier.name,
        classifier_sha256=classifier.sha256,
        bounds=bounds or settings.bounds,
        timeout_ms=settings.challenge.timeout_ms,
        height=classifier.height,
        width=classifier.width,
        original_sha256=identity,
    ).as_task()
    origin = Origin(
        source="pair", source_id="pair", clean_confidence=0, clean_margin=0, judge=judge.name, judge_sha256=judge.sha256
    )
    challenge = Challenge(round_id="pair", created_at=datetime.now(UTC), task=task, origin=origin, png=clean_png)
    response = Response(miner_uid=0, miner_hotkey="pair", response_ms=response_ms, body=perturbed)
    (verdict,) = verify(challenge, [response], classifier=classifier, judge=judge, settings=settings)
    return PairVerdict(
        task=task,
        verdict=verdict,
        score=score(verdict, task, response_ms, policy=settings.policy),
        clean_label=predicted.label,
        clean_label_name=classifier.label_name(predicted.label),
        clean_confidence=predicted.confidence,
        clean_margin=clean_margin,
        notes=_notes(task, predicted.label, classifier, clean_margin, predicted.confidence, settings),
    )


def _notes(
    task: Task, predicted: int, classifier: Classifier, margin: float, confidence: float, settings: Settings
) -> tuple[str, ...]:
    notes = []
    if predicted != task.true_label:
        notes.append(
            f"the classifier predicts {classifier.label_name(predicted)!r} for the clean image, not "
            f"{task.true_label_name!r}: no validator would send this challenge"
        )
    elif margin < settings.challenge.min_clean_margin or confidence < settings.challenge.min_clean_confidence:
        notes.append(
            f"the clean image has margin {margin:.2f} and confidence {confidence:.2f}; challenges have at least "
            f"{settings.challenge.min_clean_margin:g} and {settings.challenge.min_clean_confidence:g}"
        )
    return tuple(notes)
