"""Figures for dataset cards, drawn from the statistics of a day or an export. Equal counts give equal PNG bytes."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from perturb.sinks.dataset.day_index import HISTOGRAMS, Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "linf_levels": "L∞ of the perturbation, 8-bit levels",
    "ssim": "SSIM",
    "psnr": "PSNR, dB",
    "score": "score",
    "quality": "quality",
    "margin": "adversarial margin, logits",
    "response_ms": "response time, ms",
    "hypernym_height": "severity: height of the shared hypernym",
}
_SHOWN = ("linf_levels", "ssim", "psnr", "margin", "hypernym_height", "score", "response_ms")
_BARS = 15
_COLOUR = "#3b6ea5"


def plot_names(statistics: Statistics) -> list[str]:
    """Return the file names of the figures for which these statistics have counts."""
    drawn = {
        "distributions.png": any(name in statistics.numbers for name in _SHOWN),
        "classes.png": bool(statistics.counts.get("true_label_name")),
        "flips.png": bool(statistics.flips),
    }
    return [name for name, counted in drawn.items() if counted]


def draw_plots(statistics: Statistics) -> dict[str, bytes]:
    """Draw the figures by file name, as PNG: distributions, most frequent classes, most frequent flips."""
    shown = [name for name in _SHOWN if name in statistics.numbers]
    draw = {
        "distributions.png": lambda: _distributions(statistics, shown),
        "classes.png": lambda: _bars(statistics.counts["true_label_name"], "most frequent classes, records"),
        "flips.png": lambda: _bars(statistics.flips, "most frequent flips, records"),
    }
    return {name: draw[name]() for name in plot_names(statistics)}


def draw_counts(counts: dict[str, int], title: str) -> bytes:
    """Draw a bar for each count as PNG, the most frequent first; `title` names what is counted and the unit."""
    return _bars(counts, title)


def most_common(counts: dict[str, int], limit: int = _BARS) -> list[tuple[str, int]]:
    """Return the `limit` most frequent entries, those of equal counts by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]


def _distributions(statistics: Statistics, names: Sequence[str]) -> bytes:
    columns = min(3, len(names))
    lines = -(-len(names) // columns)

    def fill(figure: "Figure") -> None:
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            first, step, _ = HISTOGRAMS[name]
            bins = statistics.numbers[name].bins
            used = [place for place, number in enumerate(bins) if number]
            axes.bar(
                [first + step * (place + 0.5) for place in range(len(bins))], bins, width=step * 0.9, color=_COLOUR
            )
            axes.set_xlim(first + step * (used[0] - 1), first + step * (used[-1] + 2))
            axes.set_xlabel(_LABELS[name])
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)

    return _render(fill, (3.6 * columns, 2.6 * lines))


def _bars(counts: dict[str, int], title: str) -> bytes:
    entries = most_common(counts)[::-1]

    def fill(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.barh(range(len(entries)), [number for _, number in entries], color=_COLOUR)
        axes.set_yticks(range(len(entries)), [_short(name) for name, _ in entries])
        axes.set_xlabel(title)

    return _render(fill, (8.0, 0.8 + 0.28 * len(entries)))


def _render(fill: Callable[["Figure"], None], size: tuple[float, float]) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The result must not depend on the user's matplotlibrc, and label text must not be read as mathtext.
    with mpl.rc_context():
        mpl.rcParams.update(mpl.rcParamsDefault)
        mpl.rcParams.update({"text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 9})
        figure = Figure(figsize=size, dpi=100, layout="tight")
        FigureCanvasAgg(figure)
        fill(figure)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A label in a script that the font lacks is drawn as boxes; the card's table shows its letters.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _short(text: str, limit: int = 60) -> str:
    plain = "".join(sign if sign.isprintable() else "?" for sign in text)
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
