"""The thresholds of the two scores, calibrated for each model and version of the prompts in calibration.json."""

import json
import logging
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypedDict

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


class _Score(TypedDict):
    threshold: float


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
