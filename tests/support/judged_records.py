"""Records as a round of `tests.support.verification_rounds` leaves them."""

import dataclasses
import hashlib

from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.record import Record, make_record
from perturb.schemas.settings import Settings
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score
from tests.support.verification_rounds import SETTINGS, answers, classifier


def records(asked: Challenge, bodies: list[bytes], *, settings: Settings = SETTINGS) -> list[Record]:
    """One record for each body, verified together and scored; later ones are slower."""
    responses = [
        dataclasses.replace(response, body_sha256=hashlib.sha256(response.body).hexdigest())
        for response in answers(bodies)
    ]
    verdicts = verify(asked, responses, classifier=classifier(), judge=NoJudge(), settings=settings)
    return [
        make_record(
            asked,
            response,
            verdict,
            score(verdict, asked.task, response.response_ms, policy="grid-1"),
            netuid=26,
            block=None,
            validator_hotkey="validator",
        )
        for response, verdict in zip(responses, verdicts, strict=True)
    ]
