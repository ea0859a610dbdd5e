"""Verification: from the bytes that miners sent to verdicts, cheapest gate first.

    verdicts = verify(challenge, responses, classifier=classifier, judge=judge, settings=settings)

`perturb.tasks.verify.gates.GATES` has the gates in their order. The first one that refuses a response gives the
outcome, and the columns behind it stay null.
"""

from collections.abc import Mapping, Sequence

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge
from perturb.sandbox.pool import DecodePool
from perturb.schemas.challenge import Challenge
from perturb.schemas.image import Pixels
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import EarlierAnswer, Verdict
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.context import NOTHING_EARLIER, RoundContext
from perturb.tasks.verify.gates import GATES


def verify(
    challenge: Challenge,
    responses: Sequence[Response],
    *,
    classifier: Classifier,
    judge: Judge,
    settings: Settings,
    pool: DecodePool | None = None,
    earlier: Mapping[str, EarlierAnswer] = NOTHING_EARLIER,
    clean: Pixels | None = None,
) -> list[Verdict]:
    """Return one verdict for each response, in their order. A response can't make this raise.

    `pool` decodes; by default it is the process's shared one. `earlier` are the answers that other rounds accepted for
    the photograph, by pixel identity: the same pixels are a duplicate. `clean` is the challenge's image where it is
    decoded already, as that of a foreign corpus must be; without it the challenge is this program's own.

    Raises CorpusError when the challenge's own image is not what its task says, ModelError when the task was made with
    another classifier, names a label outside its classes, or when a model gives a number that is not finite.
    """
    context = RoundContext.of(
        challenge, classifier=classifier, judge=judge, settings=settings, pool=pool, earlier=earlier, clean=clean
    )
    cases = [Case(response) for response in responses]
    for gate in GATES:
        gate([case for case in cases if case.open], context)
    return [case.verdict(challenge.task.bounds) for case in cases]
