"""Gates: conditions on a report card. The first that does not pass is the reason for refusing a challenger."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from perturb.schemas.report_card import CardVerdict, ReportCard

Gate = Callable[[ReportCard], str | None]
"""Returns why a card does not pass, or None."""

# Shares in 0..1. A point is 0.01. Sums of floats miss a limit by less than this.
_ROUNDING = 1e-9


def sound(card: ReportCard) -> str | None:
    """The weights load strictly, have their digest and classes, and give finite logits."""
    facts = card.sound
    if facts.fault is not None:
        return facts.fault
    if not facts.digest_matches:
        return "the weights do not have the sha256 that is stated"
    if facts.classes != facts.expected_classes:
        return f"{facts.classes} classes, {facts.expected_classes} expected"
    if facts.images == 0 or facts.finite_images < facts.images:
        return f"finite logits on {facts.finite_images} of {facts.images} images"
    return None


def clean(card: ReportCard) -> str | None:
    """Accuracy is at most 2 points below the parent's, 5 below the first generation's; the interval ends at -6."""
    if card.clean is None:
        return "clean accuracy was not measured"
    parent, first = card.clean.against_parent, card.clean.against_first
    if parent.value < -0.02 - _ROUNDING:
        return f"clean accuracy {_points(parent.value)} against the parent, at least -2.0 asked"
    if first.value < -0.05 - _ROUNDING:
        return f"clean accuracy {_points(first.value)} against the first generation, at least -5.0 asked"
    if first.low < -0.06 - _ROUNDING:
        return f"clean accuracy may be {_points(first.low)} against the first generation, at least -6.0 asked"
    return None


def learned(card: ReportCard) -> str | None:
    """Old held-out perturbations flip less than with the parent and the control arm; both intervals exclude 0."""
    if card.learned is None:
        return "flips by held-out perturbations were not measured"
    for other, change in (("parent", card.learned.against_parent), ("control arm", card.learned.against_control)):
        if change.high >= 0:
            return (
                f"flips by held-out perturbations {_points(change.value)} against the {other}, "
                f"interval {_points(change.low)} to {_points(change.high)}; the interval must lie below 0"
            )
    return None


def effort(card: ReportCard) -> str | None:
    """The grid attack has to change at least 0.9 times as many values as with the parent."""
    if card.effort_ratio is None:
        return "the effort of the grid attack was not measured"
    if card.effort_ratio.value < 0.9 - _ROUNDING:
        return f"the grid attack changes {card.effort_ratio.value:.2f} x the parent's values, at least 0.90 asked"
    return None


def not_masked(card: ReportCard) -> str | None:
    """Gradients lead to flips as well as other ways do, and many levels flip everything."""
    if card.masking is None:
        return "masking was not measured"
    seen = card.masking
    checks = (
        ("PGD flips fewer than FGSM", seen.fgsm.value - seen.pgd.value, 0.02),
        ("PGD at 8 levels leaves unflipped", 1 - seen.pgd_8_levels.value, 0.01),
        ("the parent's perturbations flip more than PGD", seen.transferred.value - seen.pgd.value, 0.0),
        ("random noise flips more than with the parent", seen.noise.value - seen.noise_parent.value, 0.02),
        ("50 steps flip more than 10", seen.pgd_50_steps.value - seen.pgd.value, 0.05),
    )
    for what, excess, limit in checks:
        if excess > limit + _ROUNDING:
            return f"{what}: by {100 * excess:.1f} points, at most {100 * limit:.1f} accepted"
    return None


def no_collapse(card: ReportCard) -> str | None:
    """Accuracy under PGD-3 ends at most 20 points below its best (Wong et al. 2020, arXiv:2001.03994)."""
    if not card.watched:
        return "PGD was not watched while training"
    fall = max(card.watched) - card.watched[-1]
    return f"accuracy under PGD fell by {100 * fall:.1f} points while training" if fall > 0.2 + _ROUNDING else None


def no_leak(card: ReportCard) -> str | None:
    """No test photograph is among the training ones."""
    if card.shared_photographs is None:
        return "training and test photographs were not compared"
    return (
        f"{card.shared_photographs} test photographs are among the training ones" if card.shared_photographs else None
    )


GATES: Mapping[str, Mapping[str, Gate]] = MappingProxyType(
    {
        "gate-1": MappingProxyType(
            {
                "sound": sound,
                "clean": clean,
                "learned": learned,
                "effort": effort,
                "not masked": not_masked,
                "no collapse": no_collapse,
                "no leak": no_leak,
            }
        ),
        "track-1": MappingProxyType({"sound": sound, "clean": clean, "not masked": not_masked}),
    }
)
"""Sets of gates by name: `gate-1` for challengers, `track-1` for networks that miners hand in, of whose training
nothing is known. A set never changes; other limits get a new name.
"""


def judge(card: ReportCard, gates: str = "gate-1") -> CardVerdict:
    """Return the verdict of a set of gates. Raises KeyError when there is no set of that name."""
    for name, gate in GATES[gates].items():
        reason = gate(card)
        if reason is not None:
            return CardVerdict(gates=gates, gate=name, reason=reason)
    return CardVerdict(gates=gates)


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"
