"""The report of a target for people: rows of figures with n and 95 % interval, and a page of one HTML file."""

from collections.abc import Iterator
from importlib.resources import files

from perturb.schemas.report_card import Estimate, Masking, ReportCard, TargetReport

COLUMNS = ("figure", "value", "95 %", "photographs")
Figure = tuple[str, str, str, int | None]


def figures(card: ReportCard) -> Iterator[Figure]:
    """Yield name, value, interval and number of photographs of each figure that was measured."""
    if card.clean is not None:
        yield _share("clean accuracy (images and mirror images)", card.clean.accuracy)
        yield _points("clean accuracy against the parent", card.clean.against_parent)
        yield _points("clean accuracy against the first generation", card.clean.against_first)
        if card.clean.agreement is not None:
            yield _share("same label as the first generation", card.clean.agreement)
    for name, estimate in card.old_flips.items():
        yield _share(f"flips by held-out perturbations of {name}", estimate)
    for name, estimate in card.control_flips.items():
        yield _share(f"control arm: flips by held-out perturbations of {name}", estimate)
    if card.learned is not None:
        yield _points("flips by held-out perturbations against the parent", card.learned.against_parent)
        yield _points("flips by held-out perturbations against the control arm", card.learned.against_control)
    for one in card.fresh:
        yield _share(f"fresh {one.attack}: flips at one level", one.one_level)
        yield _share(f"fresh {one.attack}: flips within the bounds", one.within_bounds)
        level = "none flips" if one.level is None else f"level {one.level:g}"
        text = f"{one.changed_values:.0f} values, {level}, {one.gradients:g} gradients, {one.cpu_ms:.0f} ms of CPU"
        yield f"fresh {one.attack}: effort (medians)", text, "", one.one_level.n
    if card.effort_ratio is not None:
        ratio = card.effort_ratio
        yield "grid: changed values / the parent's", f"{ratio.value:.2f}", _interval(ratio, 1, ".2f"), ratio.n
    for level, estimate in card.pgd_accuracy.items():
        yield _share(f"right under PGD-10 at {level} levels", estimate)
    if card.standard_accuracy is not None:
        yield _share("right under AutoAttack's apgd-ce at one level", card.standard_accuracy)
    if card.masking is not None:
        for name in Masking.model_fields:
            yield _share(f"masking: flips by {name.replace('_', ' ')}", getattr(card.masking, name))
    if card.watched:
        yield "right under PGD-3 while training", ", ".join(f"{one:.0%}" for one in card.watched), "", None
    if card.shared_photographs is not None:
        yield "test photographs among the training ones", str(card.shared_photographs), "", None


def render_report(report: TargetReport) -> str:
    """Return the page of a report."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = files("perturb.sinks.report").joinpath("target_report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(report=report, columns=COLUMNS, figures=list(figures(report.card)))


def _share(name: str, estimate: Estimate) -> Figure:
    return name, f"{100 * estimate.value:.1f} %", _interval(estimate, 100, ".1f"), estimate.n


def _points(name: str, estimate: Estimate) -> Figure:
    return name, f"{100 * estimate.value:+.1f} points", _interval(estimate, 100, "+.1f"), estimate.n


def _interval(estimate: Estimate, scale: float, form: str) -> str:
    return f"{scale * estimate.low:{form}} to {scale * estimate.high:{form}}"
