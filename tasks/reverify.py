"""Verifies a record again, from the bytes of its two images and from what the record itself says of its task."""

from collections.abc import Iterator, Sequence
from math import isclose
from typing import Any

from models.classifier import Classifier
from models.judge import NoJudge
from schemas.bounds import Bounds
from schemas.challenge import Challenge, Origin, Task
from schemas.errors import CorpusError
from schemas.image import Pixels
from schemas.record import Record
from schemas.response import Response
from schemas.settings import Settings
from schemas.verdict import Verdict
from tasks.meaning import predict
from tasks.sample import Sample
from tasks.score import score
from tasks.verify import verify

# Float32 networks differ by up to 1e-4 logit between batch sizes and devices; everything else is computed alike.
TOLERANCES = {
    **dict.fromkeys(("margin", "adversarial_confidence", "clean_margin", "clean_confidence"), 2e-3),
    "ssim": 1e-6,
}
_EXACT = 1e-9
# The judge is asked once for good, and its answer is covered by the round's digest.
_NOT_RECOMPUTED = frozenset({"detail", "semantic_score", "semantic_mismatch", "duplicate_of", "near_duplicate_of"})


def reverify_samples(samples: Sequence[Sample], *, classifier: Classifier, settings: Settings) -> list[str | None]:
    """For each accepted record, None if every claim that its bytes can prove holds, else the faults in one sentence.

    Raises ModelError when a record was made with another classifier than `classifier`.
    """
    return ["; ".join(faults) or None for faults in (list(_faults(sample, classifier, settings)) for sample in samples)]


def _faults(sample: Sample, classifier: Classifier, settings: Settings) -> Iterator[str]:
    record = sample.record
    challenge = _challenge(record, sample.original)
    response = Response(record.miner_uid, record.miner_hotkey, record.response_ms, body=sample.perturbed)
    again = settings.model_copy(update={"classifier": _asked(record, settings)})
    try:
        (verdict,) = verify(challenge, [response], classifier=classifier, judge=NoJudge(), settings=again)
    except CorpusError as error:
        yield str(error)
        return
    yield from _differences(record, verdict.model_dump(exclude=set(_NOT_RECOMPUTED)))
    yield from _differences(record, _clean_prediction(challenge.pixels, record, classifier))
    stored = Verdict(**{name: getattr(record, name) for name in Verdict.model_fields})
    yield from _differences(
        record, score(stored, challenge.task, record.response_ms, policy=record.policy).model_dump()
    )


def _asked(record: Record, settings: Settings) -> Any:
    """Persistence and transfer are computed again exactly where the record has them."""
    transfer = tuple(found.classifier for found in record.transfer or ())
    return settings.classifier.model_copy(update={"persistence": record.persists is not None, "transfer": transfer})


def _clean_prediction(clean: Pixels, record: Record, classifier: Classifier) -> dict[str, Any]:
    seen = predict(classifier.logits(clean[None])[0], true_label=None)
    against = predict(classifier.logits(clean[None])[0], true_label=record.true_label)
    return {
        "true_label": seen.label,
        "true_label_name": classifier.label_name(seen.label),
        "synset": classifier.synset(seen.label),
        "clean_confidence": seen.confidence,
        "clean_margin": -against.margin,
    }


def _differences(record: Record, computed: dict[str, Any]) -> Iterator[str]:
    stated = record.model_dump()
    for name, value in computed.items():
        if not _same(stated[name], value, TOLERANCES.get(name, _EXACT)):
            yield f"{name} is {stated[name]!r} in the record, {value!r} from the bytes"


def _same(stated: Any, computed: Any, tolerance: float) -> bool:
    if isinstance(stated, float) and isinstance(computed, float):
        return isclose(stated, computed, rel_tol=_EXACT, abs_tol=tolerance)
    if isinstance(stated, dict) and isinstance(computed, dict):
        return stated.keys() == computed.keys() and all(
            _same(stated[key], computed[key], TOLERANCES.get(key, tolerance)) for key in stated
        )
    if isinstance(stated, list | tuple) and isinstance(computed, list | tuple):
        pairs = zip(stated, computed, strict=False)
        return len(stated) == len(computed) and all(_same(a, b, tolerance) for a, b in pairs)
    return bool(stated == computed)


def _challenge(record: Record, png: bytes) -> Challenge:
    fields = record.model_dump()
    task = {name: fields[name] for name in Task.model_fields if name != "bounds"}
    bounds = Bounds(**{name: fields[name] for name in Bounds.model_fields})
    origin = Origin(**{name: fields[name] for name in Origin.model_fields})
    return Challenge(record.round_id, record.created_at, Task(**task, bounds=bounds), origin, png)
