"""What verification finds out about a response, and the score that follows."""

from typing import NamedTuple

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


class EarlierAnswer(NamedTuple):
    """An accepted answer of another round: its record and that round."""

    record_id: str
    round_id: str


class Findings(BaseModel):
    """What the gates have found out about one response so far. Each gate fills in its own columns.

    A column is null until its gate has run, and stays null behind the gate that refused the response.
    """

    perturbed_sha256: str | None = None
    """Pixel identity of the decoded image."""
    linf: float | None = None
    """max|a-b| on the 0..1 scale."""
    linf_levels: int | None = None
    """max|a-b| in 8-bit levels, 0..255."""
    l0: int | None = None
    """Changed channel values."""
    l0_pixels: int | None = None
    """Changed pixels."""
    changed_share: float | None = None
    """Changed channel values as a share of all, 0..1."""
    l2: float | None = None
    """Euclidean norm of the perturbation on the 0..1 scale."""
    rmse: float | None = None
    """Root mean square of the perturbation on the 0..1 scale."""
    psnr: float | None = None
    """dB at data range 255; null where nothing changed."""
    ssim: float | None = None
    """Structural similarity, to nine decimals."""
    ssim_definition: str | None = None
    adversarial_label: int | None = None
    """The class that the classifier sees in the perturbed image."""
    adversarial_label_name: str | None = None
    adversarial_confidence: float | None = None
    """Softmax probability of `adversarial_label`."""
    margin: float | None = None
    """Best other logit minus the true label's logit on the perturbed image."""
    semantic_score: float | None = None
    """The judge's score that both labels are the same kind of thing."""
    semantic_mismatch: bool | None = None
    hypernym_height: int | None = None
    """Height of the lowest hypernym that both labels share in WordNet 3.0; see `perturb.models.hypernyms`."""
    duplicate_of: str | None = None
    """Record id of the faster answer with the same pixels, or of one that an earlier round accepted."""
    duplicate_round: str | None = None
    """Round of that record."""
    near_duplicate_of: str | None = None
    """Record id of a faster answer with nearly the same perturbation."""
    persists: Persistence | None = None
    transfer: tuple[Transfer, ...] | None = None


class _Result(BaseModel):
    outcome: str
    """`accepted`, or the named reason of the refusal (`perturb.schemas.outcome.Outcome`)."""
    detail: str | None = None
    """The refusal in one sentence, for the miner."""


# Fields of the base that stands last come first: a printed verdict begins with its outcome.
class Verdict(Findings, _Result):
    """The result of the gates for one response: its outcome, and everything that was found out on the way."""

    model_config = ConfigDict(frozen=True)

    @property
    def accepted(self) -> bool:
        """Whether every gate was passed."""
        return self.outcome == Outcome.ACCEPTED


class Score(BaseModel):
    """The score of a verdict under a policy; all three in 0..1, `policy` is `name-version`."""

    model_config = ConfigDict(frozen=True)

    quality: float
    speed: float
    score: float
    policy: str
