"""Report cards: what was measured of a challenger before it may become a target. Shares are in 0..1."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Part):
    """A number, how many photographs it rests on, and its 95 % interval by bootstrap over photographs."""

    value: float
    n: int = Field(gt=0)
    low: float
    high: float

    @model_validator(mode="after")
    def _order_the_interval(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"the interval {self.low} to {self.high} ends before it begins")
        return self


class Share(Estimate):
    """A share of photographs or images, in 0..1."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Difference(Estimate):
    """A difference of two shares, in -1..1."""

    value: float = Field(ge=-1, le=1)
    low: float = Field(ge=-1, le=1)
    high: float = Field(ge=-1, le=1)


class Soundness(_Part):
    """Whether the weights load strictly and compute numbers. `finite_images` of `images` gave finite logits."""

    fault: str | None = Field(None, description="Why the weights do not load: keys, shapes, size")
    digest_matches: bool
    classes: int
    expected_classes: int
    images: int = Field(ge=0)
    finite_images: int = Field(ge=0)


class Clean(_Part):
    """Accuracy on photographs and their mirror images, and its paired differences to parent and first generation.

    `agreement` is the share of them to which the network gives the first generation's label.
    """

    accuracy: Share
    against_parent: Difference
    against_first: Difference
    agreement: Share | None = None


class Learned(_Part):
    """Share of held-out perturbations of earlier generations that flip, as differences: negative is better.

    `against_control` is the difference to the control arm: the same training with every perturbed image replaced by its
    clean one.
    """

    against_parent: Difference
    against_control: Difference


class FreshAttack(_Part):
    """What one attack does to the network anew, on photographs that the network gets right.

    The medians are over photographs: changed channel values (all of an image where nothing flips), level (null where
    nothing flips), gradients and milliseconds of CPU time.
    """

    attack: str
    one_level: Share
    within_bounds: Share
    changed_values: float = Field(ge=0)
    level: float | None
    gradients: float = Field(ge=0)
    cpu_ms: float = Field(ge=0)


class Masking(_Part):
    """Flip shares that show masked gradients (Athalye et al. 2018, arXiv:1802.00420). `level` is 1/255.

    `transferred` are perturbations made against the parent at one level, `noise` is uniform noise of one level.
    """

    fgsm: Share
    pgd: Share
    pgd_50_steps: Share
    pgd_8_levels: Share
    transferred: Share
    noise: Share
    noise_parent: Share


class ReportCard(_Part):
    """Everything the gates read. A part that could not be measured is null; the gate that needs it does not pass.

    `old_flips` is a row of the transfer matrix: of the held-out perturbations that were made against each target, the
    share that flips this network; `control_flips` is the same of the control arm. `fresh` are attacks made anew.
    `pgd_accuracy` is accuracy under PGD with ten steps in real numbers, by level; `standard_accuracy` that under
    AutoAttack's apgd-ce at one level. Both are of the photographs that are attacked, which the network gets right.
    `effort_ratio` is the median number of values that the grid attack changes, divided by the parent's.
    `watched` is accuracy under PGD with three steps on training photographs, in 0..1, epoch after epoch.
    `shared_photographs` counts test photographs that are also among the training ones, near duplicates included.
    """

    sound: Soundness
    clean: Clean | None = None
    old_flips: dict[str, Share] = Field(default_factory=dict)
    control_flips: dict[str, Share] = Field(default_factory=dict)
    learned: Learned | None = None
    fresh: tuple[FreshAttack, ...] = ()
    pgd_accuracy: dict[str, Share] = Field(default_factory=dict)
    standard_accuracy: Share | None = None
    effort_ratio: Estimate | None = None
    masking: Masking | None = None
    watched: tuple[float, ...] | None = None
    shared_photographs: int | None = Field(None, ge=0)


class CardVerdict(_Part):
    """The outcome of a set of gates: `gate` is the first that does not pass, null when all pass."""

    gates: str
    gate: str | None = None
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Return whether every gate passes."""
        return self.gate is None

    def __str__(self) -> str:
        return "passed" if self.passed else f"refused: {self.gate}: {self.reason}"


class TargetReport(_Part):
    """A report card of a target as it is kept: of which weights, when, by which version of the code, what follows.

    `photographs` were measured on, `pairs` of them with perturbations that were made against earlier targets.
    """

    target: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    measured_at: datetime
    code_version: str
    photographs: int = Field(ge=0)
    pairs: int = Field(ge=0)
    card: ReportCard
    verdict: CardVerdict
