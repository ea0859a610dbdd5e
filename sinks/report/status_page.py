"""The status as one self-contained HTML page: styles and pictures are part of it."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from perturb.sandbox.stored import pair_pixels
from perturb.schemas.image import Pixels
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.schemas.status import Status
from perturb.schemas.target_matrix import TargetMatrix
from perturb.sinks.report.arms_race import render_arms_race
from perturb.sinks.report.contact_sheet import amplified_difference
from perturb.sinks.report.replace_file import replace_file

_JPEG_QUALITY = 88
_SIDE = 224


def data_uri(pixels: Pixels, *, side: int = _SIDE) -> str:
    """Return a preview of an image, uint8 (height, width, 3), as a `data:` URI: a JPEG of at most `side` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(path: Path, status: Status, pairs: Sequence[Pair], targets: TargetMatrix | None) -> None:
    """Replace `path` by the page, in one step. Raises StoreError where it cannot be written."""
    replace_file(path, render_page(status, pairs, targets).encode())


def render_page(status: Status, pairs: Sequence[Pair], targets: TargetMatrix | None) -> str:
    """Return the page with `pairs` in their order, and the arms race of the targets.

    `targets` is None where their reports cannot be read. The page refers to no other resource; all values are escaped.
    """
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["age"] = age
    environment.filters["amount"] = amount
    template = files("perturb.sinks.report").joinpath("status.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        status=status, pictures=map(_picture, pairs), arms_race=None if targets is None else render_arms_race(targets)
    )


def _picture(pair: Pair) -> dict[str, str]:
    """The parts of a pair's figure: previews as `data:` URIs, and what the record says of them."""
    original, perturbed = pair_pixels(pair)
    difference = amplified_difference(original, perturbed)
    tiles = {"original": original, "perturbed": perturbed, "difference": difference}
    return {name: data_uri(tile) for name, tile in tiles.items()} | {
        "title": f"{pair.row['true_label_name']} → {pair.row['adversarial_label_name']}",
        "caption": _caption(pair.row),
    }


def _caption(row: Row) -> str:
    changed = f"L-inf {row['linf_levels']}/255, SSIM {row['ssim']:.5f}, PSNR {row['psnr']:.1f} dB"
    return f"{changed}, score {row['score']:.3f} in {row['response_ms']:.0f} ms, {row['miner_hotkey']}"


def age(seconds: float | None) -> str:
    """Return `42 s`, `7 min`, `3.5 h` or `2.1 days`; `never` for None."""
    if seconds is None:
        return "never"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def amount(size: float) -> str:
    """Return a size in bytes as `1.23 GB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
