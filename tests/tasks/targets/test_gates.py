"""Gates: each refuses the card that breaks its own condition, at its limit, and a part that was not measured."""

from typing import Any

import pytest
from pydantic import ValidationError

from perturb.schemas.report_card import Estimate, ReportCard
from perturb.tasks.targets.gates import GATES, judge


def _estimate(value: float, spread: float = 0.005) -> dict[str, Any]:
    return {"value": value, "n": 40, "low": value - spread, "high": value + spread}


def _card() -> dict[str, Any]:
    """Return a card that lies on the accepted side of every limit, on most of them exactly."""
    return {
        "sound": {"digest_matches": True, "classes": 1000, "expected_classes": 1000, "images": 32, "finite_images": 32},
        "clean": {
            "accuracy": _estimate(0.9),
            "against_parent": _estimate(-0.02),
            "against_first": _estimate(-0.05),
        },
        "learned": {"against_parent": _estimate(-0.08), "against_control": _estimate(-0.04)},
        "effort_ratio": _estimate(0.9),
        "masking": {
            "fgsm": _estimate(0.92),
            "pgd": _estimate(0.9),
            "pgd_50_steps": _estimate(0.95),
            "pgd_8_levels": _estimate(0.99),
            "transferred": _estimate(0.9),
            "noise": _estimate(0.04),
            "noise_parent": _estimate(0.02),
        },
        "watched": [0.1, 0.3, 0.1],
        "shared_photographs": 0,
    }


def _with(path: str, value: Any) -> ReportCard:
    card = _card()
    *parts, last = path.split(".")
    place = card
    for part in parts:
        place = place[part]
    place[last] = value
    return ReportCard.model_validate(card)


def test_a_card_at_the_limits_passes() -> None:
    verdict = judge(ReportCard.model_validate(_card()))
    assert verdict.passed
    assert str(verdict) == "passed"


@pytest.mark.parametrize(
    ("path", "value", "gate", "words"),
    [
        ("sound.fault", "classifier.weight is missing", "sound", "classifier.weight is missing"),
        ("sound.digest_matches", False, "sound", "sha256"),
        ("sound.classes", 10, "sound", "10 classes, 1000 expected"),
        ("sound.finite_images", 31, "sound", "31 of 32"),
        ("clean.against_parent", _estimate(-0.021), "clean", "parent"),
        ("clean.against_first", _estimate(-0.051), "clean", "first generation"),
        ("clean.against_first", _estimate(-0.05, 0.011), "clean", "may be -6.1"),
        ("learned.against_parent", _estimate(0.0, 0.0), "learned", "parent"),
        ("learned.against_control", _estimate(-0.04, 0.04), "learned", "control arm"),
        ("effort_ratio", _estimate(0.89), "effort", "0.89"),
        ("masking.fgsm", _estimate(0.921), "not masked", "FGSM"),
        ("masking.pgd_8_levels", _estimate(0.989), "not masked", "8 levels"),
        ("masking.transferred", _estimate(0.901), "not masked", "parent's"),
        ("masking.noise", _estimate(0.041), "not masked", "noise"),
        ("masking.pgd_50_steps", _estimate(0.951), "not masked", "50 steps"),
        ("watched", [0.31, 0.1], "no collapse", "21.0"),
        ("shared_photographs", 1, "no leak", "1 test photographs"),
        ("clean", None, "clean", "not measured"),
        ("learned", None, "learned", "not measured"),
        ("effort_ratio", None, "effort", "not measured"),
        ("masking", None, "not masked", "not measured"),
        ("watched", [], "no collapse", "not watched"),
        ("shared_photographs", None, "no leak", "not compared"),
    ],
)
def test_each_gate_refuses_what_breaks_it(path: str, value: Any, gate: str, words: str) -> None:
    verdict = judge(_with(path, value))
    assert verdict.gate == gate
    assert words in str(verdict.reason)
    assert str(verdict).startswith(f"refused: {gate}: ")


def test_the_first_gate_that_fails_is_the_reason() -> None:
    card = ReportCard.model_validate({"sound": _card()["sound"] | {"classes": 10}, "shared_photographs": 3})
    assert judge(card).gate == next(iter(GATES["gate-1"])) == "sound"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_card_holds_no_number_that_passes_every_comparison(value: float) -> None:
    with pytest.raises(ValidationError):
        Estimate(value=value, n=1, low=0, high=0)
