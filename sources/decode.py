"""From an image file of any origin to upright sRGB pixels.

The file's header decides before anything is decoded: its format, and how many pixels it declares. So a few
kilobytes can't unfold into gigabytes.
"""

import io
import logging
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from perturb.schemas.errors import SourceError
from perturb.schemas.image import Pixels

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 32
MAX_ASPECT = 20

# What Pillow's decoders raise on damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)


class UnusableImage(SourceError):
    """A file that gives no photograph; the message says why. Sources skip it and go on."""


def read_photo(path: Path) -> Pixels:
    """`decode_photo` of a file. Raises UnusableImage, too, for one that can't be read or is larger than MAX_BYTES."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnusableImage(f"it has {size:,} bytes; accepted: up to {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"it can't be read ({error.strerror or error})") from error
    return decode_photo(data)


def decode_photo(data: bytes) -> Pixels:
    """uint8 RGB of (height, width, 3): upright (EXIF), in sRGB (ICC), transparency laid on white, first frame only.

    Accepts JPEG, PNG, WEBP, TIFF, BMP and GIF, grey, palette, CMYK and 16-bit ones included.
    Raises UnusableImage for anything else, for a side under MIN_SIDE pixels, and, before decoding, for an image
    that declares more than MAX_PIXELS.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            return _upright_srgb(image)
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"{error}; accepted: up to {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise UnusableImage(f"it is not an image of a known format; accepted: {', '.join(FORMATS)}") from error
    except _DAMAGED as error:
        raise UnusableImage(f"it is damaged ({type(error).__name__}: {error})") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableImage(
            f"it declares {width} x {height} pixels; accepted: up to {MAX_PIXELS // 10**6} megapixels, "
            f"so scale it down first"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        # The classifier's resize scales the short side: a sliver would become gigapixels.
        raise UnusableImage(f"it is a sliver of {width} x {height} pixels; accepted: up to {MAX_ASPECT} to 1")
    if min(width, height) < MIN_SIDE:
        raise UnusableImage(f"it has only {width} x {height} pixels; accepted: sides of at least {MIN_SIDE}")


def _upright_srgb(image: Image.Image) -> Pixels:
    profile = image.info.get("icc_profile")
    turned = ImageOps.exif_transpose(image)
    colours, alpha = _split_alpha(_eight_bits(turned))
    flat = _to_srgb(colours, profile)
    if alpha is not None:
        white = Image.new("RGB", flat.size, "white")
        white.paste(flat, mask=alpha)
        flat = white
    return np.array(flat)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled down (Pillow would clip it); 16-bit colour comes with 8 bits from Pillow already."""
    if image.mode in ("I", "F"):
        raise UnusableImage(f"it holds {image.mode!r} samples (32 bits each); accepted: 8 or 16 bits a channel")
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    return image


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode == "LA":
        return image.convert("L"), image.getchannel("A")
    if image.mode in ("PA", "La", "RGBa") or image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            # As browsers do: a profile that doesn't fit its image is worth less than the image.
            logger.debug("an ICC profile was left out of account: %s", error)
        else:
            assert converted is not None  # None only when converting in place
            return converted
    return image.convert("RGB")


_SRGB = ImageCms.createProfile("sRGB")
