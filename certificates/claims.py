"""Claims of a plan, such as `robust@1>=0.30`: a metric and the share of the pool that it must reach."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.errors import SettingsError

_FORM = re.compile(r"(?:(clean)|robust@(\d{1,2}))\s*>=\s*(0(?:\.\d{1,6})?|1(?:\.0{1,6})?|\.\d{1,6})")
ACCEPTED = "robust@LEVEL>=SHARE or clean>=SHARE, such as robust@1>=0.30 (a share is 0 to 1)"

Verdict = Literal["refuted", "not_refuted", "undecided"]


class Claim(BaseModel):
    """One claim. `level` is None for clean accuracy. `threshold` is a decimal string in 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    level: int | None
    comparator: Literal[">="] = ">="
    threshold: str = Field(pattern=r"^[01](\.[0-9]{1,6})?$")

    @property
    def text(self) -> str:
        """The claim as it was written."""
        return f"{self.metric}{self.comparator}{self.threshold}"


def parse_claim(text: str, levels: Sequence[int]) -> Claim:
    """Return the claim. Raises SettingsError for another form, and for a level that the plan doesn't measure."""
    found = _FORM.fullmatch(text.strip())
    if not found:
        raise SettingsError(f"claim {text!r} can't be read; accepted: {ACCEPTED}")
    share = str(Decimal(found[3]) + 0)
    if found[1]:
        return Claim(metric="clean", level=None, threshold=share)
    level = int(found[2])
    if level not in levels:
        raise SettingsError(f"claim {text!r} is about level {level}, the plan measures {', '.join(map(str, levels))}")
    return Claim(metric=f"robust@{level}", level=level, threshold=share)
