"""From an image file of any origin to upright sRGB pixels.

The format and the declared number of pixels are checked in the header, before anything is decoded, so that a few
kilobytes cannot unfold into gigabytes.
"""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from perturb.schemas.errors import SourceError
from perturb.schemas.image import Pixels
from perturb.schemas.printable import storable_text
from perturb.sources.containers import Pixelfile, finished_in_three_ways, without_metadata

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 32
MAX_ASPECT = 20

# EXIF orientation -> the operation that makes the image upright (EXIF 2.32, tag 0x0112).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImage(SourceError):
    """A file that cannot be used as a photograph; the message gives the reason. Sources skip it."""


def read_photo(path: Path) -> Pixels:
    """Return `decode_photo` of a file. Also raises UnusableImage where it cannot be read or exceeds MAX_BYTES."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnusableImage(f"it has {size:,} bytes; accepted: up to {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"it can't be read ({error.strerror or error})") from error
    return decode_photo(data)


def decode_photo(data: bytes) -> Pixels:
    """Return the pixels of an image, uint8 RGB of (height, width, 3).

    They are upright (EXIF), in sRGB (ICC), with transparency laid on white, from the first frame. Accepts JPEG, PNG,
    WEBP, TIFF, BMP and GIF, also grey, palette, CMYK and 16-bit. Damaged metadata is ignored, so that the image looks
    as in a viewer. Raises UnusableImage for anything else, for missing pixels, for a side under MIN_SIDE pixels, and,
    before decoding, for an image that declares more than MAX_PIXELS.
    """
    try:
        file = without_metadata(data)
        if file is not None and file.unfinished:
            return _unfinished(file)
        return _decoded(data if file is None else file.data, file)
    except UnusableImage:
        raise
    except Image.DecompressionBombError as error:
        raise UnusableImage(f"{error}; accepted: up to {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise UnusableImage(
            f"it is not an image of a known format{_kind(data)}; accepted: {', '.join(FORMATS)}"
        ) from error
    # Pillow's decoders raise anything on damaged files. A photograph can only cost itself.
    except Exception as error:
        reason = storable_text(str(error))[:200]
        raise UnusableImage(f"it is damaged ({type(error).__name__}: {reason})") from error


def _decoded(data: bytes, file: Pixelfile | None) -> Pixels:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        profile = image.info.get("icc_profile") if file is None else file.profile
        image.load()  # turns a TIFF upright
        return _upright_srgb(image, _orientation(image) if file is None else file.orientation, profile)


def _unfinished(file: Pixelfile) -> Pixels:
    """A JPEG without its end marker, if no pixel depends on what is missing."""
    ways = [_decoded(finished, file) for finished in finished_in_three_ways(file.data)]
    if not ways or not all(np.array_equal(ways[0], other) for other in ways[1:]):
        raise UnusableImage("it is truncated: pixels are missing at its end")
    return ways[0]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (the parser of damaged metadata raises anything)
        return 1


def _kind(data: bytes) -> str:
    """What a file seems to be that none of the decoders knows, in brackets; empty where nothing is recognised."""
    if data[4:8] == b"ftyp":
        return " (it is AVIF)" if data[8:12] in (b"avif", b"avis") else " (it is HEIC or a video)"
    if not data:
        return " (it is empty)"
    return " (it is a web page or other markup)" if data.lstrip()[:1] == b"<" else ""


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusableImage(
            f"it declares {width} x {height} pixels; accepted: up to {MAX_PIXELS // 10**6} megapixels, "
            f"so scale it down first"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        # The classifier's resize scales the short side: a sliver would become gigapixels.
        raise UnusableImage(f"it is a strip of {width} x {height} pixels; accepted: sides of up to {MAX_ASPECT} to 1")
    if min(width, height) < MIN_SIDE:
        raise UnusableImage(f"it has only {width} x {height} pixels; accepted: sides of at least {MIN_SIDE}")


def _upright_srgb(image: Image.Image, orientation: int, profile: bytes | None) -> Pixels:
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    colours, alpha = _split_alpha(_eight_bits(image))
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
        except Exception as error:  # noqa: BLE001  (a profile may be any bytes)
            # As browsers do: the pixels are used without a profile that does not fit them.
            logger.debug("an ICC profile was ignored: %s", error)
        else:
            assert converted is not None  # None only when converting in place
            return converted
    return image.convert("RGB")


_SRGB = ImageCms.createProfile("sRGB")
