"""What no slice of a round can tell alone: which answers repeat others, and what the judge says.

A large round is verified in slices, wherever there is room, each by `perturb.tasks.verify.round` without a judge.
What came out is settled here, once and in one place, into what `verify` says of the whole round, to the last bit.
"""

import logging
from collections.abc import Sequence

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.schemas.challenge import Challenge
from perturb.schemas.png import PngRefused
from perturb.schemas.response import Response
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.gates.model import decide_mismatch
from perturb.tasks.verify.gates.pixel import Case, find_duplicates, find_near_duplicates
from perturb.tasks.verify.round import clean_pixels
from perturb.tasks.verify.sandbox import DecodePool, shared_pool

logger = logging.getLogger(__name__)
_SETTLED_HERE = {"outcome", "detail", "duplicate_of", "near_duplicate_of", "semantic_score", "semantic_mismatch"}


def settle(
    challenge: Challenge,
    responses: Sequence[Response],
    apart: Sequence[Verdict],
    *,
    classifier: Classifier,
    judge: Judge,
    pool: DecodePool | None = None,
) -> list[Verdict]:
    """One verdict for each response, in their order.

    `apart` are the verdicts of slices, without a judge, for those responses that have no `failure`, in their order.
    Raises CorpusError when the challenge's own image is not what its task says.
    """
    task = challenge.task
    cases = [Case(response) for response in responses]
    answered = list(zip([case for case in cases if case.open], apart, strict=True))
    for case, verdict in answered:
        if verdict.perturbed_sha256 is None:
            case.refuse(verdict.outcome, verdict.detail)
        else:
            case.found["perturbed_sha256"] = verdict.perturbed_sha256
    # The fastest of a round's copies is the fastest in its slice too, so it was looked at there.
    find_duplicates([case for case in cases if case.open], task_id=task.task_id)
    for case, verdict in answered:
        if case.open:
            _take_over(case, verdict)
    decide_mismatch([case for case in cases if case.open], task=task, classifier=classifier, judge=judge)
    for case, _ in answered:
        if not case.open:
            _forget_what_lies_behind(case)
    accepted = [case for case in cases if case.open]
    decoded = _decode_again(accepted, challenge, pool or shared_pool())
    find_near_duplicates(decoded, clean_pixels(challenge.png, task), task_id=task.task_id)
    return [case.verdict(task.bounds) for case in cases]


def _take_over(case: Case, verdict: Verdict) -> None:
    case.found |= {name: getattr(verdict, name) for name in Verdict.model_fields if name not in _SETTLED_HERE}
    if not verdict.accepted:
        case.refuse(verdict.outcome, verdict.detail)


def _forget_what_lies_behind(case: Case) -> None:
    """A slice went on to what comes after the judge."""
    for name in ("persists", "transfer"):
        case.found.pop(name, None)


def _decode_again(cases: Sequence[Case], challenge: Challenge, pool: DecodePool) -> list[Case]:
    """The cases that have their pixels now. A slice has decoded all of them: what fails here is this machine's own."""
    task = challenge.task
    decoded = pool.decode([case.response.body for case in cases], height=task.height, width=task.width)
    for case, result in zip(cases, decoded, strict=True):
        if isinstance(result, PngRefused):
            logger.warning("miner %d is not looked at for near copies: %s", case.response.miner_uid, result.detail)
        else:
            case.pixels = result
    return [case for case in cases if case.pixels is not None]
