"""The arms race of the targets as HTML: the transfer matrix as a heat map, and what each generation withstands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files

from markupsafe import Markup

from perturb.schemas.report_card import Estimate, FreshAttack, TargetReport
from perturb.schemas.target_matrix import TargetMatrix

# The attack whose flips at one level are drawn; the others are in `perturb targets matrix`.
_FRESH = "pgd"
# Sizes are CSS pixels of the smallest drawing: two generations fit a screen of 320 pixels, more can be scrolled.
_HEIGHT, _LEFT, _BOTTOM, _TOP = 200, 52, 28, 10
_STEP, _LETTERS = 105, 14
# Lines stand beside each other at a generation, so that no interval hides another.
_BESIDE = 14


@dataclass(frozen=True)
class Point:
    """A figure of one generation, as text and in units of the picture."""

    text: str
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """A line of the picture; `style` is its CSS class."""

    title: str
    style: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """A picture: its lines, the names below it, and what stands beside its ticks."""

    title: str
    series: tuple[Series, ...]
    names: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    width: int
    height: int = _HEIGHT
    left: int = _LEFT


def render_arms_race(matrix: TargetMatrix) -> Markup:
    """Return a part of a page: tables and inline SVG, whose figures are those of the reports. All names are escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = files("perturb.sinks.report").joinpath("arms_race.html").read_text(encoding="utf-8")
    # One network alone has nothing to be compared with.
    charts = _charts(matrix) if len(matrix.reports) > 1 else ()
    return Markup(environment.from_string(template).render(matrix=matrix, charts=charts, percent=_percent))


def _charts(matrix: TargetMatrix) -> tuple[Chart, Chart]:
    reports = list(matrix.reports.values())
    oldest = matrix.made_for[0] if matrix.made_for else ""
    flips = (
        (f"perturbations made for {oldest}", "old", lambda one: one.card.old_flips.get(oldest)),
        ("the same, control arm", "control", lambda one: one.card.control_flips.get(oldest)),
        (f"fresh {_FRESH} at one level", "fresh", _fresh),
    )
    effort = (("grid's changed values, as a multiple of the parent's", "effort", lambda one: one.card.effort_ratio),)
    most = max((ratio.high for one in reports if (ratio := one.card.effort_ratio) is not None), default=1.0)
    top = max(2.0, float(int(most) + 1))
    return (
        _chart("share that flips the network", reports, flips, top=1.0, ticks=[0, 0.5, 1], text=_percent),
        _chart("effort", reports, effort, top=top, ticks=[0, 1, top], text=lambda value: f"{value:.2f} x"),
    )


def _chart(
    title: str,
    reports: list[TargetReport],
    wanted: tuple[tuple[str, str, Callable[[TargetReport], Estimate | None]], ...],
    *,
    top: float,
    ticks: list[float],
    text: Callable[[float], str],
) -> Chart:
    places = [_LEFT + _STEP * (number + 0.5) for number in range(len(reports))]

    def height(value: float) -> float:
        return round(_TOP + (_HEIGHT - _BOTTOM - _TOP) * (1 - min(value, top) / top), 1)

    def points(figure: Callable[[TargetReport], Estimate | None], beside: float) -> Iterator[Point]:
        for x, report in zip(places, reports, strict=True):
            if (one := figure(report)) is not None:
                shown = f"{report.target}: {text(one.value)} ({text(one.low)} to {text(one.high)}), n = {one.n}"
                yield Point(shown, x + beside, height(one.value), height(one.low), height(one.high))

    middle = (len(wanted) - 1) / 2
    series = (
        Series(name, style, tuple(points(figure, _BESIDE * (number - middle))))
        for number, (name, style, figure) in enumerate(wanted)
    )
    return Chart(
        title,
        tuple(one for one in series if one.points),
        tuple((x, _short(report.target)) for x, report in zip(places, reports, strict=True)),
        tuple((height(tick), text(tick)) for tick in ticks),
        width=_LEFT + _STEP * len(reports),
    )


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else name[: _LETTERS - 1] + "…"


def _fresh(report: TargetReport) -> Estimate | None:
    found: dict[str, FreshAttack] = {one.attack: one for one in report.card.fresh}
    return found[_FRESH].one_level if _FRESH in found else None


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
