"""Merge the verdicts of a round's slices: duplicates, near duplicates and the judge need the whole round.

A large round is verified in slices, on any machines, each by `perturb.tasks.verify.round.verify` without a judge.
Merging gives what `verify` says of the whole round, to the last bit.
"""

from collections.abc import Mapping, Sequence

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.sandbox.pool import DecodePool
from perturb.schemas.challenge import Challenge
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.context import NOTHING_EARLIER, RoundContext
from perturb.tasks.verify.gates import GATES, Gate


def merge_slices(
    challenge: Challenge,
    responses: Sequence[Response],
    sliced: Sequence[Verdict],
    *,
    classifier: Classifier,
    judge: Judge,
    settings: Settings,
    pool: DecodePool | None = None,
    earlier: Mapping[str, EarlierAnswer] = NOTHING_EARLIER,
) -> list[Verdict]:
    """Return one verdict for each response, in their order.

    `sliced` are the verdicts of the slices, made without a judge, for the responses that have no `failure`, in their
    order; `earlier` is that of `verify`. Raises CorpusError when the challenge's own image is not what its task says,
    ModelError when the task was made with another classifier.
    """
    context = RoundContext.of(
        challenge, classifier=classifier, judge=judge, settings=settings, pool=pool, earlier=earlier
    )
    cases = [Case(response) for response in responses]
    answered = list(zip([case for case in cases if case.open], sliced, strict=True))
    for gate in GATES:
        # The fastest of a round's copies is the fastest in its slice too, so the later gates examined it there.
        if gate.scope == "round":
            gate([case for case, _ in answered if case.open], context)
            continue
        for case, verdict in answered:
            if case.open:
                _take_over(case, verdict, gate)
    return [case.verdict(challenge.task.bounds) for case in cases]


def _take_over(case: Case, verdict: Verdict, gate: Gate) -> None:
    """Write into the case what the gate found out about it in its slice."""
    for name in gate.columns:
        setattr(case.findings, name, getattr(verdict, name))
    if verdict.outcome in gate.outcomes:
        case.refuse(verdict.outcome, verdict.detail)
