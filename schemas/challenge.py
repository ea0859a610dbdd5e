"""A challenge: the clean image, what is true about it, and what an answer may change."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels
from perturb.schemas.png import stored_pixels
from perturb.schemas.printable import storable_text


@dataclass(frozen=True)
class Photo:
    """A clean photograph as its source gave it, with everything that is known of its origin.

    `pixels` is uint8 RGB of any size, upright and in sRGB. `subject` is what the source says it shows (a search
    prompt, a folder's name); `true_class` is the ImageNet-1k index where the source knows it. Texts are made storable
    as UTF-8 (`schemas.printable.storable_text`), because a record that can't be written would cost its whole round.
    """

    pixels: Pixels
    source: str
    source_id: str
    source_url: str | None = None
    author: str | None = None
    license: str | None = None
    subject: str | None = None
    true_class: int | None = None

    def __post_init__(self) -> None:
        for name in ("source", "source_id", "source_url", "author", "license", "subject"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, storable_text(value))


class Task(BaseModel):
    """What miners are told about a challenge: the JSON header of the request, the same for every miner.

    `excluded_labels` are labels near the true one that the judge finds to be the same kind of thing: a flip to one of
    them is refused. They are an incomplete hint, so records do not contain them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    true_label: int = Field(ge=0)
    true_label_name: str
    classifier: str
    classifier_sha256: str
    norm_type: str = "linf"
    bounds: Bounds
    timeout_ms: int = Field(gt=0)
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    original_sha256: str
    excluded_labels: tuple[int, ...] = Field(default=(), max_length=1000)


class Origin(BaseModel):
    """Where a challenge's image came from and what supports its label. Recorded, but not sent to miners."""

    model_config = ConfigDict(frozen=True)

    source: str
    source_id: str
    source_url: str | None = None
    author: str | None = None
    license: str | None = None
    subject: str | None = None
    true_class: int | None = None
    synset: str | None = None
    clean_confidence: float
    clean_margin: float
    subject_score: float | None = None
    judge: str
    judge_sha256: str | None = None


@dataclass(frozen=True)
class Challenge:
    """A packaged challenge: `task` and `png` are sent to miners, `origin` is not.

    `png` is the clean image, 8-bit RGB at the classifier's own input size (the pixel contract).
    """

    round_id: str
    created_at: datetime
    task: Task
    origin: Origin
    png: bytes

    @cached_property
    def pixels(self) -> Pixels:
        """The clean image, uint8 of shape (height, width, 3). Raises PngRefused where `png` is another file."""
        return stored_pixels(self.png)
