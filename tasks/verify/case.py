"""One response on its way through the gates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perturb.models.metrics import Distances
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import record_id
from perturb.schemas.response import Response
from perturb.schemas.verdict import Findings, Verdict
from perturb.tasks.verify.context import RoundContext


class Refusal(NamedTuple):
    """Why a gate refuses a response: the outcome for the record, and one sentence for the miner."""

    outcome: str
    detail: str | None


@dataclass
class Case:
    """One response and what the gates have found out about it. It is open until a gate refuses it.

    `pixels` is uint8 (height, width, 3) from decoding to the refusal; `distance` is measured against the clean image.
    A response that failed on the wire is refused from the start, with the wire's own reason.
    """

    response: Response
    findings: Findings = field(default_factory=Findings)
    pixels: Pixels | None = None
    distance: Distances | None = None
    refusal: Refusal | None = None

    def __post_init__(self) -> None:
        if self.response.failure is not None:
            self.refuse(self.response.failure, self.response.detail)

    @property
    def open(self) -> bool:
        """Whether no gate has refused it yet."""
        return self.refusal is None

    def refuse(self, outcome: str, detail: str | None) -> None:
        """End the case with a reason, and release its pixels."""
        self.refusal, self.pixels = Refusal(outcome, detail), None

    def image(self) -> Pixels:
        """Return the decoded pixels. Only open cases that passed decoding have them."""
        assert self.pixels is not None
        return self.pixels

    def measured(self) -> Distances:
        """Return the distances to the clean image. Only cases behind their measurement have them."""
        assert self.distance is not None
        return self.distance

    def record_id(self, context: RoundContext) -> str:
        """Return the id that the record of this response will have."""
        task_id, hotkey = context.task.task_id, self.response.miner_hotkey
        return record_id(context.created_at, task_id, hotkey, self.findings.perturbed_sha256)

    def verdict(self, bounds: Bounds) -> Verdict:
        """Return the verdict. An accepted answer whose margin is too small for a score says so in its detail."""
        # `dict` and not `model_dump`: the nested models stay what they are.
        found = dict(self.findings)
        if self.refusal is not None:
            return Verdict(outcome=self.refusal.outcome, detail=self.refusal.detail, **found)
        margin, detail = self.findings.margin, None
        if margin is not None and margin < bounds.min_margin:
            detail = (
                f"accepted with a score of 0: the margin is {margin:.3f} logits, below the required "
                f"{bounds.min_margin:g}; increase the lead of the other label"
            )
        return Verdict(outcome=Outcome.ACCEPTED, detail=detail, **found)


def fastest_first(cases: Sequence[Case]) -> list[Case]:
    """Return the cases in the order in which they were answered; the lower uid first where two took the same time."""
    return sorted(cases, key=lambda case: (case.response.response_ms, case.response.miner_uid))
