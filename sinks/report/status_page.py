"""The status as one HTML page that needs nothing else: styles and pictures stand in it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from PIL import Image

from perturb.schemas.status import Status

_JPEG_QUALITY = 88
_SIDE = 224


@dataclass(frozen=True)
class Picture:
    """One accepted pair and its amplified difference, uint8 (height, width, 3) each, with a caption for the row."""

    original: np.ndarray
    perturbed: np.ndarray
    difference: np.ndarray
    title: str
    caption: str


def data_uri(pixels: np.ndarray, *, side: int = _SIDE) -> str:
    """A preview as `data:` URI: JPEG of at most `side` pixels; the true pixels are in the corpus."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render_page(status: Status, pictures: Sequence[Picture]) -> str:
    """The page, UTF-8 text. Nothing in it is fetched, and all that came from outside is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["uri"] = data_uri
    environment.filters["age"] = age
    environment.filters["amount"] = amount
    template = files("perturb.sinks.report").joinpath("status.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(status=status, pictures=pictures)


def age(seconds: float | None) -> str:
    """`42 s`, `7 min`, `3.5 h` or `2.1 days`; `never` for None."""
    if seconds is None:
        return "never"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"


def amount(size: float) -> str:
    """Bytes as `1.23 GB`, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
