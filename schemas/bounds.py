"""What a perturbation may do: the bounds that each challenge and each record contain."""

from fractions import Fraction
from math import ceil, floor
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

LEVELS = 255
# A bound written as a rounded decimal ("0.0314") must land on the level that was meant.
LEVEL_SLACK = 0.02


def _fraction(value: object) -> object:
    """Read "8/255", as bounds are usually written. Every other form is left to pydantic."""
    try:
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else value
    except ZeroDivisionError:
        raise ValueError("the denominator is 0; write a fraction like 8/255") from None


Epsilon = Annotated[float, BeforeValidator(_fraction)]


class Bounds(BaseModel):
    """Limits on a perturbation, in the field's units; compared on integers.

    `epsilon_min` and `epsilon` bound L-inf on the 0..1 scale (0.0314 or "8/255"; within 0.02 of a level means that
    level), PSNR is in dB, SSIM in 0..1, and `min_margin` is the
    logit margin (best other logit minus the true one) below which the score is 0.

    Raises pydantic's ValidationError when the bounds exclude every answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon_min: Epsilon = Field(default=1 / LEVELS, ge=0, le=1, description='minimum L-inf, such as "1/255"')
    epsilon: Epsilon = Field(default=8 / LEVELS, gt=0, le=1, description='maximum L-inf, such as "8/255"')
    min_psnr: float = Field(default=38.0, ge=0, le=100, description="minimum PSNR in dB")
    min_ssim: float = Field(default=0.98, ge=0, le=1, description="minimum SSIM")
    min_margin: float = Field(default=0.5, ge=0, description="margin in logits below which an answer scores 0")

    @property
    def min_levels(self) -> int:
        """Smallest allowed max|a-b| on the 0..255 grid; at least 1, because an unchanged image is refused."""
        return max(1, ceil(self.epsilon_min * LEVELS - LEVEL_SLACK))

    @property
    def max_levels(self) -> int:
        """Largest allowed max|a-b| on the 0..255 grid."""
        return floor(self.epsilon * LEVELS + LEVEL_SLACK)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min_levels > self.max_levels:
            raise ValueError(
                f"bounds exclude every answer: epsilon_min={self.epsilon_min:g} is {self.min_levels} levels of 255, "
                f"epsilon={self.epsilon:g} is {self.max_levels}; use epsilon_min <= epsilon and epsilon >= 1/255"
            )
        return self
