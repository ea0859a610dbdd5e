"""Results of the model track: networks that miners committed to, each with what was found, and the winner."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.report_card import ReportCard


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Part):
    """The score of a network, and its three parts, each in 0..1.

    `clean` is accuracy on clean photographs. `old` is the share of perturbations of the last days that do not flip the
    network. `effort` is half the number of values that the grid attack has to change, as a multiple of the first
    generation's, at most 2. `total` is their average, weighted as the settings say.
    """

    clean: float = Field(ge=0, le=1)
    old: float = Field(ge=0, le=1)
    effort: float = Field(ge=0, le=1)
    total: float = Field(ge=0, le=1)


class Baseline(_Part):
    """The target of the line-up with the best score, which a winner has to exceed."""

    target: str
    score: Score


class CandidateCard(_Part):
    """What was found about one commitment. `committed_at` is a block, on the local network seconds since 1970.

    `refused`: the commitment, the file or a gate is in the way; `behind`: measured, and not the winner. `reason` says
    which. `card` is there when the network was measured.
    """

    hotkey: str
    text: str
    committed_at: int = Field(ge=0)
    sha256: str | None = None
    outcome: Literal["winner", "behind", "refused", "not reached"]
    reason: str
    score: Score | None = None
    card: ReportCard | None = None


class TrackResult(_Part):
    """One evaluation of all commitments as they were at `committed_until`.

    `winner` is the hotkey of the winner, whose network is in the registry as `target`; both are null without one.
    """

    measured_at: datetime
    committed_until: int = Field(ge=0)
    days: tuple[str, ...] = ()
    photographs: int = Field(0, ge=0)
    pairs: int = Field(0, ge=0)
    epsilon: float = Field(ge=0)
    baseline: Baseline | None = None
    winner: str | None = None
    target: str | None = None
    candidates: tuple[CandidateCard, ...] = ()
