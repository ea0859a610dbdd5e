"""What verification found out about a response, and what it is worth."""

from pydantic import BaseModel, ConfigDict

from perturb.schemas.outcome import Outcome


class Persistence(BaseModel):
    """Whether the flip survives re-encoding and resampling of the perturbed image."""

    model_config = ConfigDict(frozen=True)

    jpeg95: bool
    jpeg75: bool
    half_size: bool


class Transfer(BaseModel):
    """What another classifier says about the perturbed image; `margin` in logits of that classifier."""

    model_config = ConfigDict(frozen=True)

    classifier: str
    classifier_sha256: str
    flipped: bool
    margin: float


class Verdict(BaseModel):
    """The result of the gates for one response. Fields behind the gate that refused it are null.

    Units: `linf`, `l2`, `rmse` on the 0..1 scale; `linf_levels` 0..255; `l0` counts changed channel values and
    `l0_pixels` changed pixels; `psnr` dB (null when nothing changed); `margin` logits.
    """

    model_config = ConfigDict(frozen=True)

    outcome: str
    detail: str | None = None
    perturbed_sha256: str | None = None
    linf: float | None = None
    linf_levels: int | None = None
    l0: int | None = None
    l0_pixels: int | None = None
    l2: float | None = None
    rmse: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    ssim_definition: str | None = None
    adversarial_label: int | None = None
    adversarial_label_name: str | None = None
    adversarial_confidence: float | None = None
    margin: float | None = None
    semantic_score: float | None = None
    semantic_mismatch: bool | None = None
    duplicate_of: str | None = None
    near_duplicate_of: str | None = None
    persists: Persistence | None = None
    transfer: tuple[Transfer, ...] | None = None

    @property
    def accepted(self) -> bool:
        """Whether every gate was passed."""
        return self.outcome == Outcome.ACCEPTED


class Score(BaseModel):
    """What a verdict earns under a policy; all three in 0..1, `policy` is `name-version`."""

    model_config = ConfigDict(frozen=True)

    quality: float
    speed: float
    score: float
    policy: str
