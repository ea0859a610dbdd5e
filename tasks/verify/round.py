"""Verification: from the bytes that miners sent to verdicts, cheapest gate first.

    verdicts = verify(challenge, responses, classifier=classifier, judge=judge, settings=settings)

The gates, in this order: the wire's own failure; the PNG's structure; decoding (sandboxed); pixel identity
(duplicates); L-inf; PSNR; SSIM; the flip; the semantic mismatch. The first that fails gives the outcome, and what
lies behind it stays null. Accepted answers then get the columns that only they have.
`perturb.tasks.verify.gates.pixel` holds the gates on pixels, `perturb.tasks.verify.gates.model` those that ask a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.models.metrics_gpu import DeviceMetrics
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import CorpusError, ModelError, SourceError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Score, Verdict
from perturb.tasks.verify.gates.model import decide_flips, decide_mismatch, predict, try_persistence, try_transfer
from perturb.tasks.verify.gates.pixel import Case, PixelGates, find_duplicates, find_near_duplicates
from perturb.tasks.verify.sandbox import DecodePool, shared_pool
from perturb.tasks.verify.score import score


def verify(
    challenge: Challenge,
    responses: Sequence[Response],
    *,
    classifier: Classifier,
    judge: Judge,
    settings: Settings,
    pool: DecodePool | None = None,
) -> list[Verdict]:
    """One verdict for each response, in their order. A response can't make this raise.

    `pool` decodes (the process's shared one by default). Raises CorpusError when the challenge's own image is not
    what its task says, ModelError when the task was made with another classifier, names a label outside its classes,
    or when a model gives a number that is not finite.
    """
    task = challenge.task
    _check_classifier(task, classifier)
    clean = clean_pixels(challenge.png, task)
    cases = [Case(response) for response in responses]
    _decode([case for case in cases if case.open], task, pool or shared_pool())
    find_duplicates([case for case in cases if case.open], task_id=task.task_id)
    on_device = DeviceMetrics(clean, classifier.device) if classifier.device.type == "cuda" else None
    gates = PixelGates(clean, task.bounds, on_device=on_device)
    gates.apply([case for case in cases if case.open])
    decide_flips([case for case in cases if case.open], task=task, classifier=classifier, settings=settings.classifier)
    gates.complete([case for case in cases if case.open])
    decide_mismatch([case for case in cases if case.open], task=task, classifier=classifier, judge=judge)
    accepted = [case for case in cases if case.open]
    find_near_duplicates(accepted, clean, task_id=task.task_id)
    if settings.classifier.persistence:
        try_persistence(accepted, task=task, classifier=classifier, settings=settings.classifier)
    if settings.classifier.transfer:
        try_transfer(accepted, clean, task=task, settings=settings.classifier)
    return [case.verdict(task.bounds) for case in cases]


@dataclass(frozen=True)
class PairVerdict:
    """What the validator would say about one pair of files.

    `clean_label`, `clean_confidence` and `clean_margin` are the classifier's view of the clean image (margin: the
    task's label against the best other, logits); `notes` say what would keep the pair from being a challenge at all.
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
    """The verdict and score that a validator with these settings gives, through `verify` itself.

    `label` None takes the classifier's prediction on the clean image. Raises SourceError when the clean image is
    not an 8-bit RGB PNG of the classifier's input size, ModelError for a label outside the classes.
    """
    try:
        clean = read_png(clean_png, height=classifier.height, width=classifier.width)
    except PngRefused as refused:
        raise SourceError(f"the clean image can't be a challenge: {refused.detail}") from refused
    predicted = predict(classifier.logits(clean[None])[0], true_label=None)
    true_label = predicted.label if label is None else classifier.check_label(label)
    seen = predict(classifier.logits(clean[None])[0], true_label=true_label)
    identity = pixel_identity(clean)
    task = Task(
        task_id=identity[:32],
        true_label=true_label,
        true_label_name=classifier.label_name(true_label),
        classifier=classifier.name,
        classifier_sha256=classifier.sha256,
        bounds=bounds or settings.bounds,
        timeout_ms=settings.challenge.timeout_ms,
        height=classifier.height,
        width=classifier.width,
        original_sha256=identity,
    )
    challenge = Challenge(
        round_id="pair", created_at=datetime.now(UTC), task=task, origin=_pair_origin(judge), png=clean_png
    )
    response = Response(miner_uid=0, miner_hotkey="pair", response_ms=response_ms, body=perturbed)
    (verdict,) = verify(challenge, [response], classifier=classifier, judge=judge, settings=settings)
    return PairVerdict(
        task=task,
        verdict=verdict,
        score=score(verdict, task, response_ms, policy=settings.policy),
        clean_label=predicted.label,
        clean_label_name=classifier.label_name(predicted.label),
        clean_confidence=predicted.confidence,
        clean_margin=-seen.margin,
        notes=_notes(task, predicted.label, classifier, -seen.margin, predicted.confidence, settings),
    )


def _check_classifier(task: Task, classifier: Classifier) -> None:
    if (task.classifier, task.classifier_sha256) != (classifier.name, classifier.sha256):
        raise ModelError(
            f"task {task.task_id} was made with {task.classifier} ({task.classifier_sha256[:12]}…), loaded is "
            f"{classifier.name} ({classifier.sha256[:12]}…); set classifier.name and classifier.weights to the task's"
        )
    if (task.height, task.width) != (classifier.height, classifier.width):
        raise ModelError(
            f"task {task.task_id} is {task.width}x{task.height}, {classifier.name} is set to "
            f"{classifier.width}x{classifier.height}; set classifier.input_size to the task's"
        )
    classifier.check_label(task.true_label)


def clean_pixels(png: bytes, task: Task) -> Pixels:
    """The clean image, uint8 (H, W, 3). Raises CorpusError when it is not what the task says."""
    try:
        clean = read_png(png, height=task.height, width=task.width)
    except PngRefused as refused:
        raise CorpusError(f"the clean image of task {task.task_id} can't be decoded: {refused.detail}") from refused
    identity = pixel_identity(clean)
    if identity != task.original_sha256:
        raise CorpusError(
            f"the clean image of task {task.task_id} has the pixel identity {identity[:12]}…, "
            f"its task says {task.original_sha256[:12]}…; the two don't belong together"
        )
    return clean


def _decode(cases: Sequence[Case], task: Task, pool: DecodePool) -> None:
    decoded = pool.decode([case.response.body for case in cases], height=task.height, width=task.width)
    for case, result in zip(cases, decoded, strict=True):
        if isinstance(result, PngRefused):
            case.refuse(result.outcome, result.detail)
        else:
            case.pixels = result
            case.found["perturbed_sha256"] = pixel_identity(result)


def _pair_origin(judge: Judge) -> Origin:
    return Origin(
        source="pair", source_id="pair", clean_confidence=0, clean_margin=0, judge=judge.name, judge_sha256=judge.sha256
    )


def _notes(
    task: Task, predicted: int, classifier: Classifier, margin: float, confidence: float, settings: Settings
) -> tuple[str, ...]:
    notes = []
    if predicted != task.true_label:
        notes.append(
            f"the classifier sees {classifier.label_name(predicted)!r} in the clean image, not "
            f"{task.true_label_name!r}: no validator would send this challenge"
        )
    elif margin < settings.challenge.min_clean_margin or confidence < settings.challenge.min_clean_confidence:
        notes.append(
            f"the clean image has margin {margin:.2f} and confidence {confidence:.2f}; challenges have at least "
            f"{settings.challenge.min_clean_margin:g} and {settings.challenge.min_clean_confidence:g}"
        )
    return tuple(notes)
