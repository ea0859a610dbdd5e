"""One attempt on the playground, and the largest that a host allows."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

AttackName = Literal["pgd+grid", "pgd", "grid", "fgsm", "mi-fgsm"]
ATTACKS: tuple[AttackName, ...] = get_args(AttackName)
MAX_LEVELS = 8


class Attempt(BaseModel):
    """What a visitor asks for: `levels` is the largest change of a channel value, `target` a class index or None.

    `pgd+grid` flips with `pgd` and then shrinks the change with `grid`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attack: AttackName = "pgd+grid"
    levels: int = Field(MAX_LEVELS, ge=1, le=MAX_LEVELS)
    target: int | None = Field(None, ge=0)
    network: str | None = None
    seed: int = Field(0, ge=0, lt=2**31)


class PlayLimits(BaseModel):
    """What one host allows: seconds of an attack, attempts that wait, attempts of one address in a minute."""

    model_config = ConfigDict(frozen=True)

    seconds: float = Field(3.0, gt=0, le=60)
    waiting: int = Field(8, ge=0, le=1000)
    attempts_a_minute: int = Field(30, ge=1)
    bodies: int = Field(32, ge=1, description="photographs that arrive at once")
    body_bytes: int = 12 * 10**6
    body_seconds: float = 10.0
