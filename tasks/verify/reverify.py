"""Proof of a record from bytes: everything that it claims about its images, computed again and compared.

    faults = reverify(row, clean_png, perturbed_png, classifier=classifier, settings=settings)
    faults = reverify_pairs(pairs, classifier=classifier, settings=settings)   # as read from a corpus

Bounds, timeout and scoring policy are the record's own. Integers, labels, names and identities must be equal. Floats
that follow from integers may differ by their rounding, SSIM by 1e-6, logits and what follows from them by 2e-3, which
is above what devices and batch sizes do to single precision and below anything that matters: each gate names the
tolerances of its columns. The row of a refused answer has no image; its figures must still fit together, and the
gates that decide on figures must decide on them as they did.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from math import isclose

from pydantic import BaseModel

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import Judge, Judgement
from perturb.models.metrics import Distances
from perturb.models.prediction import Prediction, predict
from perturb.sandbox.pool import shared_pool
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import CorpusError, ModelError, PerturbError, SettingsError
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused
from perturb.schemas.record import Record, Row, record_id, task_fault, terms_of
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Findings, Score, Verdict
from perturb.tasks.lineup.find import classifier_of_digest
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.gates import GATES, FigureGate
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score

#: Absolute tolerances. Fields that are not named here must be equal.
TOLERANCES: dict[str, float] = {
    name: tolerance for gate in GATES for name, tolerance in gate.columns.items() if tolerance
} | {"clean_margin": 2e-3, "clean_confidence": 2e-3, "quality": 1e-9, "speed": 1e-9, "score": 1e-9}
_PROVEN = tuple(
    dict.fromkeys(
        name for gate in GATES if not gate.optional for name, tolerance in gate.columns.items() if tolerance is not None
    )
)
_OPTIONAL = tuple(name for gate in GATES if gate.optional for name in gate.columns)


def reverify(
    row: Record | Row,
    clean_png: bytes,
    perturbed_png: bytes | None,
    *,
    classifier: Classifier,
    settings: Settings,
    judge: Judge | None = None,
    extras: bool = False,
) -> list[str]:
    """Return what doesn't hold in one row, a sentence for each field; empty for a sound one.

    `perturbed_png` is None for the row of a refused answer. Without a `judge` the recorded judgement is taken over.
    With `extras` persistence and transfer are computed again, too, where the record has them (a JPEG library of another
    version may answer differently). Of `settings` the margin tolerance is used.
    Raises ModelError when `classifier` is not the record's, pydantic's ValidationError for a row that is not a record.
    """
    record = Record.model_validate(row)
    faults = _identity_faults(record, perturbed_png)
    if record.outcome != Outcome.ACCEPTED:
        return faults + refusal_faults(record)
    if perturbed_png is None:
        return [*faults, "perturbed image: missing, though the record is accepted"]
    task = _task(record)
    challenge = Challenge(
        round_id=record.round_id, created_at=record.created_at, task=task, origin=_origin(record), png=clean_png
    )
    try:
        clean = _clean_pixels(clean_png, record.height, record.width)
        (verdict,) = verify(
            challenge,
            [_response(record, perturbed_png)],
            classifier=classifier,
            judge=judge or _RecordedJudge(record),
            settings=_with_extras_of(record, settings) if extras else _without_extras(settings),
            clean=clean,
        )
        faults += _clean_faults(record, clean_png, classifier)
    except CorpusError as error:
        return [*faults, f"original image: {error}"]
    if not verdict.accepted:
        return [*faults, *_compare("outcome", record.outcome, verdict.outcome), f"outcome: {verdict.detail}"]
    for name in (*_PROVEN, *(_OPTIONAL if extras else ())):
        faults += _compare(name, getattr(record, name), getattr(verdict, name))
    return faults + _score_faults(record, verdict, task)


def reverify_pairs(pairs: Sequence[Pair], *, classifier: Classifier, settings: Settings) -> list[str | None]:
    """Return for each accepted pair None if what its bytes can prove holds, else the faults in one sentence.

    A record of another classifier is verified with that one, where the settings can load it. Never raises for what
    a pair contains: a row or an image that makes no sense is a fault.
    """
    with shared_pool().kept():
        return [_fault(pair, classifier, settings) for pair in pairs]


def _fault(pair: Pair, classifier: Classifier, settings: Settings) -> str | None:
    try:
        record = pair.record
        own = _classifier_of(record, classifier, settings)
        faults = reverify(record, pair.original, pair.perturbed, classifier=own, settings=settings)
    except (PerturbError, PngRefused, ValueError, ArithmeticError) as error:
        return _sentence(error)
    return "; ".join(faults) or None


def _classifier_of(record: Record, classifier: Classifier, settings: Settings) -> Classifier:
    """`classifier`, or the one with the weights that the record names, at the size of its images.

    A network of another name and the settings' kind of weights needs no entry in the registry of targets.
    """
    size = record.height
    if record.classifier_sha256 == classifier.sha256:
        at_size = (classifier.height, classifier.width) == (record.height, record.width)
        return classifier if at_size else load_classifier(settings.classifier, name=record.classifier, input_size=size)
    if record.classifier != classifier.name:
        with suppress(ModelError):
            sibling = load_classifier(settings.classifier, name=record.classifier, input_size=size)
            if sibling.sha256 == record.classifier_sha256:
                return sibling
    return classifier_of_digest(settings, record.classifier_sha256, input_size=size)


def refusal_faults(row: Record | Row) -> list[str]:
    """Return what doesn't fit together in the row of a refused answer, which has no image to prove it from.

    Never raises for what the row contains: figures that make no sense are a fault.
    """
    try:
        record = Record.model_validate(row)
        task = _task(record)
        if record.outcome == Outcome.DUPLICATE and record.margin is not None:
            # Accepted and paid in its round; the day that took it in held its pixels already.
            paid = record.model_copy(update={"outcome": Outcome.ACCEPTED})
            return _score_faults(paid, Verdict(outcome=Outcome.ACCEPTED, **dict(_findings(record))), task)
        return _reward_faults(record) + _figure_faults(record, task)
    except (PerturbError, ValueError, ArithmeticError) as error:
        return [_sentence(error)]


def _reward_faults(record: Record) -> list[str]:
    """What only an accepted answer has: a score, an image, and the columns behind the last gate."""
    faults = [fault for name in ("quality", "speed", "score") for fault in _compare(name, getattr(record, name), 0.0)]
    for name in ("perturbed_shard", "perturbed_offset", "perturbed_length", *_OPTIONAL):
        faults += _compare(name, getattr(record, name), None)
    if record.outcome == Outcome.DUPLICATE and record.duplicate_of is None:
        faults.append("duplicate_of: null, though the record is a duplicate")
    if (record.duplicate_of is None) != (record.duplicate_round is None):
        faults.append(f"duplicate_round: {record.duplicate_round}, though duplicate_of is {record.duplicate_of}")
    return faults


def _figure_faults(record: Record, task: Task) -> list[str]:
    """Whether the figures belong together, and whether the gates that decide on figures decide on them as recorded."""
    if record.linf_levels is None:
        return []
    case = Case(_response(record), findings=_findings(record), distance=_recorded_distances(record))
    gates = [gate for gate in GATES if isinstance(gate, FigureGate)]
    refusals = (gate.refusal(case, task) for gate in gates)
    refusal = next((found for found in refusals if found is not None), None)
    faults = _distance_faults(record, case.measured())
    if refusal is not None:
        faults += _compare("outcome", record.outcome, refusal.outcome)
    elif any(record.outcome in gate.outcomes for gate in gates):
        faults += _compare("outcome", record.outcome, "the outcome of a later gate")
    return faults


def _recorded_distances(record: Record) -> Distances:
    """The distances as integers. The sum of squares is an integer, so the float that was recorded gives it exactly."""
    values = record.height * record.width * 3
    return Distances(
        values=values,
        linf_levels=-1 if record.linf_levels is None else record.linf_levels,
        l0=-1 if record.l0 is None else record.l0,
        l0_pixels=-1 if record.l0_pixels is None else record.l0_pixels,
        squares=round(((record.rmse or 0.0) * 255) ** 2 * values),
    )


def _distance_faults(record: Record, found: Distances) -> list[str]:
    faults = []
    for name in ("linf", "l2", "rmse", "psnr", "changed_share"):
        faults += _compare(name, getattr(record, name), getattr(found, name))
    levels, l0, squares = found.linf_levels, found.l0, found.squares
    if not l0 <= squares <= l0 * levels**2 or (levels and squares < levels**2):
        faults.append(f"l0: {l0} values of at most {levels} levels don't give the recorded rmse {record.rmse}")
    if not l0 <= 3 * found.l0_pixels <= 3 * l0:
        faults.append(f"l0_pixels: {found.l0_pixels} pixels don't fit {l0} changed values")
    return faults


class _RecordedJudge:
    """Says about the two labels what the record says: for an auditor without the language model."""

    def __init__(self, record: Record):
        self.name, self.sha256 = record.judge, record.judge_sha256
        self._judgement = Judgement(score=record.semantic_score, holds=not record.semantic_mismatch)

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        return [Judgement(score=None, holds=True) for _ in pairs]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        return [self._judgement for _ in pairs]


def _task(record: Record) -> Task:
    return Task(task_id=record.task_id, **dict(terms_of(record)))


def _origin(record: Record) -> Origin:
    return Origin(**{name: getattr(record, name) for name in Origin.model_fields})


def _findings(record: Record) -> Findings:
    return Findings(**{name: getattr(record, name) for name in Findings.model_fields})


def _response(record: Record, body: bytes = b"") -> Response:
    return Response(
        miner_uid=record.miner_uid, miner_hotkey=record.miner_hotkey, response_ms=record.response_ms, body=body
    )


def _without_extras(settings: Settings) -> Settings:
    wanted = settings.classifier.model_copy(update={"persistence": False, "transfer": ()})
    return settings.model_copy(update={"classifier": wanted})


def _with_extras_of(record: Record, settings: Settings) -> Settings:
    """Settings that compute the optional columns which the record has."""
    extras = {
        "persistence": record.persists is not None,
        "transfer": tuple(other.classifier for other in record.transfer or ()),
    }
    return settings.model_copy(update={"classifier": settings.classifier.model_copy(update=extras)})


def _identity_faults(record: Record, perturbed_png: bytes | None) -> list[str]:
    answer = record.perturbed_sha256 or record.body_sha256
    expected = record_id(record.created_at, record.task_id, record.miner_hotkey, answer)
    faults = _compare("record_id", record.record_id, expected)
    if fault := task_fault(record):
        faults.append(fault)
    if perturbed_png is not None:
        faults += _compare("body_sha256", record.body_sha256, hashlib.sha256(perturbed_png).hexdigest())
    return faults


def _clean_faults(record: Record, clean_png: bytes, classifier: Classifier) -> list[str]:
    seen = _clean_prediction(clean_png, record.height, record.width, record.true_label, classifier)
    return [
        *_compare("true_label", record.true_label, seen.label),
        *_compare("true_label_name", record.true_label_name, classifier.label_name(record.true_label)),
        *_compare("synset", record.synset, classifier.synset(record.true_label)),
        *_compare("true_class", record.true_class, None if record.true_class is None else seen.label),
        *_compare("clean_margin", record.clean_margin, -seen.margin),
        *_compare("clean_confidence", record.clean_confidence, seen.confidence),
    ]


# A round's answers come one after the other and share their clean image.
@lru_cache(maxsize=4)
def _clean_prediction(png: bytes, height: int, width: int, true_label: int, classifier: Classifier) -> Prediction:
    clean = _clean_pixels(png, height, width)
    return predict(classifier.logits(clean[None])[0], true_label=true_label)


@lru_cache(maxsize=4)
def _clean_pixels(png: bytes, height: int, width: int) -> Pixels:
    (clean,) = shared_pool().decode([png], height=height, width=width)
    if isinstance(clean, PngRefused):
        raise CorpusError(f"it can't be decoded: {clean.detail}")
    return clean


def _score_faults(record: Record, verdict: Verdict, task: Task) -> list[str]:
    # Scored from the recorded margin and SSIM, so that a last digit of another device can't cross a threshold here.
    recorded = verdict.model_copy(update={"margin": record.margin, "outcome": record.outcome})
    try:
        expected = score(recorded, task, record.response_ms, policy=record.policy)
    except SettingsError as error:
        return [f"policy: {error}"]
    return [
        fault for name in Score.model_fields for fault in _compare(name, getattr(record, name), getattr(expected, name))
    ]


def _compare(name: str, recorded: object, expected: object) -> list[str]:
    return [] if _same(name, recorded, expected) else [f"{name}: recorded {recorded!r}, recomputed {expected!r}"]


def _same(name: str, recorded: object, expected: object) -> bool:
    """Whether two values of a column agree within its tolerance; nested values by the tolerances of their own names."""
    if isinstance(recorded, tuple) and isinstance(expected, tuple):
        return len(recorded) == len(expected) and all(
            _same(name, mine, other) for mine, other in zip(recorded, expected, strict=True)
        )
    if isinstance(recorded, BaseModel) and type(recorded) is type(expected):
        return all(
            _same(field, getattr(recorded, field), getattr(expected, field)) for field in type(recorded).model_fields
        )
    if isinstance(recorded, float) and isinstance(expected, float) and name in TOLERANCES:
        return isclose(recorded, expected, rel_tol=1e-9, abs_tol=TOLERANCES[name])
    return recorded == expected


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
