"""The line-up: which targets challenges are made for, how often, and the draw that anyone can repeat."""

import hashlib
import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from perturb.schemas.target import NAME

# The first generation keeps this share, so that every generation is measured beside it.
MIN_FIRST_SHARE = 0.25
# Sums of shares miss 1 by less than this.
_ROUNDING = 1e-9


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Share(_Part):
    """A target of the line-up, by its name and the sha256 of its weights, and its share of the challenges, 0..1."""

    target: str = Field(pattern=NAME)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    share: float = Field(gt=0, le=1)


class LineUp(_Part):
    """The shares after one event: `event` and `target` say what happened, `gates` whether its report card passed.

    `first` is the first generation. `previous` is the key of the line-up before this one in the log, `undo` that
    of the line-up which a rollback restores; null stands for the first generation alone.
    """

    number: int = Field(ge=1)
    event: Literal["promotion", "retirement", "rollback"]
    target: str = Field(pattern=NAME)
    gates: str | None = None
    first: str = Field(pattern=NAME)
    shares: tuple[Share, ...] = Field(min_length=1)
    previous: str | None = None
    undo: str | None = None

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        names = [one.target for one in self.shares]
        if names != sorted(set(names)):
            raise ValueError("the targets are not sorted by name, each once")
        total = math.fsum(one.share for one in self.shares)
        if abs(total - 1) > _ROUNDING:
            raise ValueError(f"the shares sum to {total:g}, not to 1")
        kept = next((one.share for one in self.shares if one.target == self.first), 0.0)
        if kept < MIN_FIRST_SHARE - _ROUNDING:
            raise ValueError(f"the first generation {self.first!r} has a share of {kept:g}, below {MIN_FIRST_SHARE:g}")
        return self


class DrawnTarget(_Part):
    """The target of one round. `log_size` is the number of the log's entries at the draw, null without a line-up."""

    round_id: str
    target: str
    sha256: str
    log_size: int | None = None


def draw_target(shares: tuple[Share, ...], round_id: str, log_size: int) -> Share:
    """Return the target of a round: the same for everybody who knows the line-up, the round's id and the log's size.

    The first eight bytes of `sha256("{round_id}|{log_size}")`, read as a big-endian number and divided by 2**64, lie in
    one of the intervals that the shares, added up in the order of the targets' names, cut from 0..1.
    """
    digest = hashlib.sha256(f"{round_id}|{log_size}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for one in shares:
        end += one.share
        if point < end:
            return one
    return shares[-1]
