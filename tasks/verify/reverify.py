"""Proof of a record from bytes: everything it claims about its images, computed again and compared.

    faults = reverify(row, clean_png, perturbed_png, classifier=classifier, settings=settings)
    faults = reverify_pairs(pairs, classifier=classifier, settings=settings)   # as read from shards

Bounds, timeout and policy are the record's own. Integers, labels, names and identities must be equal. Floats that
follow from integers may differ by their rounding, SSIM by 1e-6, logits and what follows from them by 2e-3, which is
above what devices and batch sizes do to single precision and below anything that matters. The rows of a refused
answer have no image; what they say must still fit together.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isclose, log10, sqrt
from typing import Any

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import Judge, Judgement
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import CorpusError, PerturbError, SettingsError
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.record import Record, record_id
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Score, Verdict
from perturb.tasks.verify.gates.model import Prediction, predict
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score

# Absolute tolerances; fields that are not named here must be equal.
TOLERANCES: dict[str, float] = {
    "linf": 1e-12,
    "l2": 1e-9,
    "rmse": 1e-12,
    "psnr": 1e-9,
    "ssim": 1e-6,
    "margin": 2e-3,
    "adversarial_confidence": 2e-3,
    "clean_margin": 2e-3,
    "clean_confidence": 2e-3,
    "semantic_score": 0.05,
    "quality": 1e-9,
    "speed": 1e-9,
    "score": 1e-9,
}
_VERDICT_FIELDS = tuple(name for name in Verdict.model_fields if name not in ("persists", "transfer", "detail"))
_EXTRAS = ("persists", "transfer")


def reverify(
    row: Record | Mapping[str, Any],
    clean_png: bytes,
    perturbed_png: bytes | None,
    *,
    classifier: Classifier,
    settings: Settings,
    judge: Judge | None = None,
    extras: bool = False,
) -> list[str]:
    """What doesn't hold in one row, a sentence for each field; empty for a sound one.

    `perturbed_png` is None for the row of a refused answer. Without a `judge` the recorded judgement is taken over:
    it was asked once for good. With `extras` persistence and transfer are computed again, too, where the record has
    them (a JPEG library of another version may answer differently). Of `settings` the margin tolerance is used.
    Raises ModelError when `classifier` is not the record's.
    """
    record = row if isinstance(row, Record) else _record(row)
    return _reverify(
        record, clean_png, perturbed_png, classifier=classifier, settings=settings, judge=judge, extras=extras
    )


def refusal_faults(row: Record | Mapping[str, Any]) -> list[str]:
    """What doesn't fit together in the row of a refused answer, which has no image to prove it from.

    Never raises for what stands in the row: figures that make no sense are a fault.
    """
    try:
        record = row if isinstance(row, Record) else _record(row)
        return _refusal_faults(record, _task(record))
    except (PerturbError, ValueError) as error:
        return [f"{type(error).__name__}: {' '.join(str(error).split())}"]


def reverify_pairs(pairs: Sequence[Pair], *, classifier: Classifier, settings: Settings) -> list[str | None]:
    """For each accepted record, None if what its bytes can prove holds, else the faults in one sentence.

    A record of another classifier is verified with that one, where the settings can load it. Never raises for what
    stands in a record: a row that makes no sense is a fault.
    """
    return [_fault(pair, classifier, settings) for pair in pairs]


def _fault(pair: Pair, classifier: Classifier, settings: Settings) -> str | None:
    try:
        record = pair.record
        own = _classifier_of(record, classifier, settings)
        faults = reverify(record, pair.original, pair.perturbed, classifier=own, settings=settings)
    except (PerturbError, PngRefused, ValueError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "; ".join(faults) or None


def _classifier_of(record: Record, classifier: Classifier, settings: Settings) -> Classifier:
    """`classifier`, or the one that the record names; `verify` compares its digest with the record's."""
    if (record.classifier, record.height, record.width) == (classifier.name, classifier.height, classifier.width):
        return classifier
    return load_classifier(settings.classifier.model_copy(update={"input_size": record.height}), name=record.classifier)


def _record(row: Mapping[str, Any]) -> Record:
    return Record.model_validate({name: row[name] for name in Record.model_fields})


def _reverify(
    record: Record,
    clean_png: bytes,
    perturbed_png: bytes | None,
    *,
    classifier: Classifier,
    settings: Settings,
    judge: Judge | None,
    extras: bool,
) -> list[str]:
    faults = _identity_faults(record, perturbed_png)
    task = _task(record)
    if record.outcome != Outcome.ACCEPTED:
        return faults + _refusal_faults(record, task)
    if perturbed_png is None:
        return [*faults, "perturbed image: none was found for an accepted row"]
    wanted = settings.classifier.model_copy(
        update={
            "persistence": extras and record.persists is not None,
            "transfer": tuple(other.classifier for other in record.transfer or ()) if extras else (),
        }
    )
    response = Response(
        miner_uid=record.miner_uid,
        miner_hotkey=record.miner_hotkey,
        response_ms=record.response_ms,
        body=perturbed_png,
    )
    challenge = Challenge(
        round_id=record.round_id, created_at=record.created_at, task=task, origin=_origin(record), png=clean_png
    )
    try:
        (verdict,) = verify(
            challenge,
            [response],
            classifier=classifier,
            judge=judge or _RecordedJudge(record),
            settings=settings.model_copy(update={"classifier": wanted}),
        )
        faults += _clean_faults(record, clean_png, classifier)
    except CorpusError as error:
        return [*faults, f"original image: {error}"]
    if not verdict.accepted:
        return [*faults, *_compare("outcome", record.outcome, verdict.outcome), f"outcome: {verdict.detail}"]
    # A near duplicate is one of another row's; the row alone can't show it.
    found = verdict.model_dump(exclude={"near_duplicate_of", "duplicate_of", *_EXTRAS})
    for name in _VERDICT_FIELDS:
        if name in found:
            faults += _compare(name, getattr(record, name), found[name])
    if extras:
        faults += [fault for name in _EXTRAS for fault in _compare(name, getattr(record, name), getattr(verdict, name))]
    return faults + _score_faults(record, verdict, task)


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
    bounds = Bounds(**{name: getattr(record, name) for name in Bounds.model_fields})
    values = {name: getattr(record, name) for name in Task.model_fields if name in Record.model_fields}
    return Task(bounds=bounds, **values)


def _origin(record: Record) -> Origin:
    return Origin(**{name: getattr(record, name) for name in Origin.model_fields})


def _identity_faults(record: Record, perturbed_png: bytes | None) -> list[str]:
    expected = record_id(record.task_id, record.miner_hotkey, record.perturbed_sha256 or record.body_sha256)
    faults = _compare("record_id", record.record_id, expected)
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
    clean = read_png(png, height=height, width=width)
    return predict(classifier.logits(clean[None])[0], true_label=true_label)


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


def _refusal_faults(record: Record, task: Task) -> list[str]:
    if record.outcome == Outcome.DUPLICATE and record.margin is not None:
        # Accepted and paid in its round; the day that took it in held its pixels already.
        return _score_faults(record.model_copy(update={"outcome": Outcome.ACCEPTED}), _recorded_verdict(record), task)
    faults = [fault for name in ("quality", "speed", "score") for fault in _compare(name, getattr(record, name), 0.0)]
    faults += [
        fault
        for name in ("perturbed_shard", "perturbed_offset", "perturbed_length", "persists", "transfer")
        for fault in _compare(name, getattr(record, name), None)
    ]
    if record.outcome == Outcome.DUPLICATE and record.duplicate_of is None:
        faults.append("duplicate_of: nothing recorded for a duplicate")
    if record.linf_levels is not None:
        faults += _norm_faults(record, record.linf_levels, task.bounds)
    return faults


def _recorded_verdict(record: Record) -> Verdict:
    return Verdict.model_validate({name: getattr(record, name) for name in Verdict.model_fields})


def _norm_faults(record: Record, levels: int, bounds: Bounds) -> list[str]:
    values = record.height * record.width * 3
    rmse = record.rmse or 0.0
    faults = _compare("linf", record.linf, levels / 255)
    faults += _compare("l2", record.l2, rmse * sqrt(values))
    faults += _compare("psnr", record.psnr, -20 * log10(rmse) if rmse else None)
    squares = round((rmse * 255) ** 2 * values)
    l0 = record.l0 if record.l0 is not None else -1
    if not l0 <= squares <= l0 * levels**2 or (levels and squares < levels**2):
        faults.append(f"l0: {record.l0} values of at most {levels} levels don't give the recorded rmse {record.rmse}")
    if record.l0_pixels is None or not l0 <= 3 * record.l0_pixels <= 3 * l0:
        faults.append(f"l0_pixels: {record.l0_pixels} pixels don't fit {record.l0} changed values")
    if levels == 0:
        reached: str | None = Outcome.UNCHANGED
    elif levels < bounds.min_levels:
        reached = Outcome.LINF_TOO_SMALL
    elif levels > bounds.max_levels:
        reached = Outcome.LINF_TOO_LARGE
    else:
        reached = None
    claimed = record.outcome in (Outcome.UNCHANGED, Outcome.LINF_TOO_SMALL, Outcome.LINF_TOO_LARGE)
    if reached is not None or claimed:
        faults += _compare("outcome", record.outcome, reached or "one of a later gate")
    return faults


def _compare(name: str, recorded: Any, expected: Any) -> list[str]:
    if name == "transfer" and recorded and expected and len(recorded) == len(expected):
        margins = zip([other.margin for other in recorded], [other.margin for other in expected], strict=True)
        if all(isclose(mine, other, abs_tol=TOLERANCES["margin"]) for mine, other in margins):
            expected = tuple(b.model_copy(update={"margin": a.margin}) for a, b in zip(recorded, expected, strict=True))
    if isinstance(recorded, float) and isinstance(expected, float) and name in TOLERANCES:
        same = isclose(recorded, expected, rel_tol=1e-9, abs_tol=TOLERANCES[name])
    else:
        same = recorded == expected
    return [] if same else [f"{name}: recorded {recorded!r}, recomputed {expected!r}"]
