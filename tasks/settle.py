"""What no slice of a round can tell alone: which answers repeat others, and what the judge says.

A large round is verified in slices, wherever there is room, each by `tasks.verify` without a judge. What came out is
settled here, once and in one place, into what `verify` says of the whole round, to the last bit.
"""

from collections.abc import Sequence

from models.classifier import Classifier
from models.judge import Judge
from schemas.challenge import Challenge
from schemas.response import Response
from schemas.verdict import Verdict
from tasks.decode import DecodePool, shared_pool
from tasks.gates import Case, find_duplicates, find_near_duplicates
from tasks.meaning import decide_mismatch
from tasks.verify import clean_pixels, decode

_SETTLED_HERE = {"outcome", "detail", "duplicate_of", "near_duplicate_of", "semantic_score", "semantic_mismatch"}
_BEHIND_THE_JUDGE = ("persists", "transfer")


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
    for case in cases:
        if not case.open:
            _forget(case, _BEHIND_THE_JUDGE)
    accepted = [case for case in cases if case.open]
    decode(accepted, task, pool or shared_pool())
    find_near_duplicates(accepted, clean_pixels(challenge.png, task), task_id=task.task_id)
    return [case.verdict(task.bounds) for case in cases]


def _take_over(case: Case, verdict: Verdict) -> None:
    case.found |= {name: getattr(verdict, name) for name in Verdict.model_fields if name not in _SETTLED_HERE}
    if not verdict.accepted:
        case.refuse(verdict.outcome, verdict.detail)


def _forget(case: Case, names: Sequence[str]) -> None:
    for name in names:
        case.found.pop(name, None)
