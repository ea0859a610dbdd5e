"""A challenge: the clean image, what is true about it, and what an answer may change."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.bounds import Bounds
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.image import Pixels
from perturb.schemas.png import stored_pixels
from perturb.schemas.printable import storable_text

_TASK_TAG = b"perturb-task-1\n"


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


class Terms(BaseModel):
    """The terms of a challenge: what a miner is told, and what its signature binds through the task's id.

    A flip to one of the `excluded_labels` is refused. They are the labels that are still right about the photograph's
    subject, and those near the true label that the judge finds to be the same kind of thing. The judge refuses others
    that are not listed. `task_salt` are 128 random bits, so that two challenges on one
    photograph have different ids and no id can be guessed from the terms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_salt: str = Field(pattern=r"^[0-9a-f]{32}$")
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

    def digest(self) -> str:
        """Return the task's id: sha256 over `perturb-task-1\\n` and the canonical JSON of the terms, 64 hex digits.

        All 256 bits are kept, because the validator chooses the terms: of a shorter digest, two sets of terms with the
        same id could be searched for. Raises ValueError for a number that JSON does not have.
        """
        terms = self.model_dump(mode="json", include=set(Terms.model_fields))
        return hashlib.sha256(_TASK_TAG + canonical_json(terms)).hexdigest()

    def as_task(self) -> "Task":
        """Return the task of these terms."""
        return Task(task_id=self.digest(), **{name: getattr(self, name) for name in Terms.model_fields})


class Task(Terms):
    """What miners are sent as the JSON header of a request, the same for every miner: the terms and their digest.

    `Terms.as_task` makes one. A task that came from elsewhere states an id, which `id_fault` compares with its terms.
    """

    task_id: str = Field(pattern=r"^[0-9a-f]{64}$")

    def id_fault(self) -> str | None:
        """Return what is wrong with the id, or None where it is the digest of the terms."""
        digest = self.digest()
        if self.task_id == digest:
            return None
        return f"task_id {self.task_id} is not the digest of the task's terms, which is {digest}"


class Origin(BaseModel):
    """Where a challenge's image came from, what supports its label, and how its target was drawn.

    Recorded, but not sent to miners. `target` and `log_size` are those of `schemas.line_up.DrawnTarget`.
    """

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
    target: str | None = None
    log_size: int | None = None


def new_round_id(now: datetime) -> str:
    """Return the id of a round that is drawn `now`: the moment in UTC, and 32 random bits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}"


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
