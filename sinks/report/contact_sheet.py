"""The contact sheet: original, perturbed image and their difference, with labels and measures from the record."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from perturb.sandbox.stored import pair_pixels
from perturb.schemas.errors import SettingsError
from perturb.schemas.image import Pixels
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.sinks.report.replace_file import drafts_beside

AMPLIFICATION = 16
_TILE = 224
_GAP = 8
_CAPTION = 58
_HEAD = 28
_INK, _FAINT, _PAPER = "#1b1f24", "#6a737d", "#ffffff"


def check_picture(path: Path) -> None:
    """Make the folder of a picture that is to be written.

    Raises SettingsError for a name that does not end in .png, and where the folder cannot be made.
    """
    if path.suffix.lower() != ".png":
        raise SettingsError(f"picture {path} is not a PNG file; give it a name that ends in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"picture {path} cannot be written ({error.strerror}); name another folder") from error


def write_contact_sheet(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the contact sheet of `pairs` to `path`, in one step. Raises ValueError without a pair, StoreError."""
    sheet = contact_sheet(pairs)
    with drafts_beside(path) as folder:
        draft = folder / path.name
        sheet.save(draft)
        draft.replace(path)


def contact_sheet(pairs: Sequence[Pair]) -> Image.Image:
    """Draw one row per pair: original, perturbed image, difference x16 around mid grey, and their captions.

    Raises ValueError without a pair.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one accepted record")
    width = 3 * _TILE + 4 * _GAP
    height = _HEAD + len(pairs) * (_TILE + _CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("original", "perturbed", f"difference x{AMPLIFICATION}")):
        draw.text((_GAP + column * (_TILE + _GAP), _GAP), title, _INK, _font(14))
    for place, pair in enumerate(pairs):
        _draw_pair(sheet, draw, pair, top=_HEAD + place * (_TILE + _CAPTION + _GAP))
    return sheet


def _draw_pair(sheet: Image.Image, draw: ImageDraw.ImageDraw, pair: Pair, *, top: int) -> None:
    original, perturbed = pair_pixels(pair)
    tiles = (original, perturbed, amplified_difference(original, perturbed))
    for column, (tile, caption) in enumerate(zip(tiles, _captions(pair.row), strict=True)):
        left = _GAP + column * (_TILE + _GAP)
        sheet.paste(Image.fromarray(tile).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (left, top))
        for number, (text, ink) in enumerate(zip(caption, (_INK, _FAINT, _FAINT), strict=True)):
            draw.text((left, top + _TILE + 4 + number * 17), _fit(text), ink, _font(13 if number == 0 else 12))


def amplified_difference(original: Pixels, perturbed: Pixels) -> Pixels:
    """Return the signed difference times 16 around mid grey, clipped; uint8 (height, width, 3), as both images."""
    difference = perturbed.astype(np.int32) - original.astype(np.int32)
    amplified: Pixels = np.clip(128 + AMPLIFICATION * difference, 0, 255).astype(np.uint8)
    return amplified


def _captions(row: Row) -> tuple[tuple[str, str, str], ...]:
    """Three lines of text for each of the three tiles; a column that a tier does not grant stays blank."""
    values = row["height"] * row["width"] * 3 if row.get("height") and row.get("width") else None
    changed = f"{100 * row['l0'] / values:.3g} % of values" if values and row.get("l0") is not None else ""
    return (
        (str(row.get("true_label_name", "")), _number("confidence {:.0%}", row.get("clean_confidence")), ""),
        (
            str(row.get("adversarial_label_name", "")),
            _number("confidence {:.0%}", row.get("adversarial_confidence")),
            _number("margin {:.2f} logits", row.get("margin")),
        ),
        (
            _number("L-inf {}/255", row.get("linf_levels")) + (f", {changed}" if changed else ""),
            _number("SSIM {:.5f}", row.get("ssim")) + _number("  PSNR {:.1f} dB", row.get("psnr")),
            _number("score {:.3f}", row.get("score")) + _number("  in {:.0f} ms", row.get("response_ms")),
        ),
    )


def _number(text: str, value: float | None) -> str:
    return "" if value is None else text.format(value)


def _fit(text: str) -> str:
    return text if len(text) <= 34 else text[:33] + "…"


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
