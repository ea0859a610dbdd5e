"""The thresholds of the two scores, calibrated for each model and version of the prompts in calibration.json."""

import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NotRequired, TypedDict

from perturb.models.judge.language_model import LanguageModel

# From the embedded model's calibration, rounded. The scores of other models have roughly the same scale.
DEFAULT_BELONGS = -1.2
DEFAULT_SAME_KIND = 0.68
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thresholds:
    """A score above its threshold means yes. `calibrated` is False for the defaults."""

    belongs: float = DEFAULT_BELONGS
    same_kind: float = DEFAULT_SAME_KIND
    calibrated: bool = False

    def overridden(self, *, belongs: float | None, same_kind: float | None) -> "Thresholds":
        """Return these thresholds, with those replaced that the settings name."""
        return replace(
            self,
            belongs=self.belongs if belongs is None else belongs,
            same_kind=self.same_kind if same_kind is None else same_kind,
        )


def thresholds_of(model: LanguageModel, *, template: str) -> Thresholds:
    """Return the calibrated thresholds of `model` under `template`, or the defaults with a warning."""
    for entry in _calibrations():
        if entry["sha256"] == model.sha256 and entry["template"] == template:
            return Thresholds(
                belongs=entry["belongs"]["threshold"], same_kind=entry["same_kind"]["threshold"], calibrated=True
            )
    logger.warning(
        "judge %r is not calibrated for prompts %s, so the default thresholds %g and %g are used; measure it with "
        "`perturb judge --pairs FILE.csv`, then set PERTURB_JUDGE__SUBJECT_THRESHOLD",
        model.name,
        template,
        DEFAULT_BELONGS,
        DEFAULT_SAME_KIND,
    )
    return Thresholds()


def calibration_counts(sha256: str) -> dict[str, object] | None:
    """Return the measured errors of `same_kind` of the model with these weights, as (right, asked); None if unknown.

    `sameKindRecognised` counts near-identical labels, `neighboursKeptApart` siblings and cousins. `threshold` is a
    decimal string.
    """
    for entry in _calibrations():
        found = entry["same_kind"]
        if entry["sha256"] != sha256 or "near_identical_pairs" not in found:
            continue
        near, neighbours = found["near_identical_pairs"], found["neighbour_pairs"]
        refused = round(neighbours * (1 - found["held_out_neighbours_refused"]))
        return {
            "template": entry["template"],
            "threshold": str(found["threshold"]),
            "sameKindRecognised": [round(near * found["near_identical_recognised"]), near],
            "neighboursKeptApart": [refused, neighbours],
        }
    return None


class _Score(TypedDict):
    threshold: float
    near_identical_recognised: NotRequired[float]
    near_identical_pairs: NotRequired[int]
    held_out_neighbours_refused: NotRequired[float]
    neighbour_pairs: NotRequired[int]


class _Calibration(TypedDict):
    """The part of an entry of calibration.json that is used here."""

    sha256: str
    template: str
    belongs: _Score
    same_kind: _Score


@cache
def _calibrations() -> list[_Calibration]:
    entries: list[_Calibration] = json.loads(Path(__file__).with_name("calibration.json").read_text())
    return entries
