"""From an image file of any origin to upright sRGB pixels. Runs behind walls; `perturb.sources.decode` asks for it.

The format and the declared number of pixels are checked in the header, before anything is decoded, so that a few
kilobytes cannot unfold into gigabytes.
"""

import contextlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from perturb.sandbox.containers import Pixelfile, finished_in_three_ways, scans, without_metadata
from perturb.sandbox.protocol import Refused
from perturb.schemas.image import Pixels
from perturb.schemas.printable import storable_text

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MIN_SIDE = 32
MAX_ASPECT = 20
# A progressive JPEG of a camera or an editor has about ten. Each one is a pass over all pixels.
MAX_SCANS = 64

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


class PhotoRefused(Refused):
    """A file that cannot be used as a photograph; the message gives the reason."""

    def __init__(self, detail: str):
        super().__init__("unusable", detail)


def decode(data: bytes, *, height: int = 0, width: int = 0) -> Pixels:
    """Return the pixels of an image, uint8 RGB of (height, width, 3); the size that is asked for is not looked at.

    Raises PhotoRefused; `perturb.sources.decode.decode_photo` says for what.
    """
    try:
        file = without_metadata(data)
        _check_scans(data if file is None else file.data)
        if file is not None and file.unfinished:
            return _unfinished(file)
        return _decoded(data if file is None else file.data, file)
    except PhotoRefused:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoRefused(f"{error}; accepted: up to {MAX_PIXELS // 10**6} megapixels") from error
    except UnidentifiedImageError as error:
        raise PhotoRefused(
            f"it is not an image of a known format{_kind(data)}; accepted: {', '.join(FORMATS)}"
        ) from error
    # Pillow's decoders raise anything on damaged files. A photograph can only cost itself.
    except Exception as error:
        reason = storable_text(str(error))[:200]
        raise PhotoRefused(f"it is damaged ({type(error).__name__}: {reason})") from error


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
        raise PhotoRefused("it is truncated: pixels are missing at its end")
    return ways[0]


def _check_scans(data: bytes) -> None:
    if data.startswith(b"\xff\xd8\xff") and (found := scans(data, most=MAX_SCANS + 1)) > MAX_SCANS:
        raise PhotoRefused(f"it is a JPEG of {found} scans or more; accepted: up to {MAX_SCANS}")


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
        raise PhotoRefused(
            f"it declares {width} x {height} pixels; accepted: up to {MAX_PIXELS // 10**6} megapixels, "
            f"so scale it down first"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        # The classifier's resize scales the short side: a sliver would become gigapixels.
        raise PhotoRefused(f"it is a strip of {width} x {height} pixels; accepted: sides of up to {MAX_ASPECT} to 1")
    if min(width, height) < MIN_SIDE:
        raise PhotoRefused(f"it has only {width} x {height} pixels; accepted: sides of at least {MIN_SIDE}")


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
        raise PhotoRefused(f"it holds {image.mode!r} samples (32 bits each); accepted: 8 or 16 bits a channel")
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
        except Exception:  # noqa: BLE001  (a profile may be any bytes)
            pass  # As browsers do: the pixels are used without a profile that does not fit them.
        else:
            assert converted is not None  # None only when converting in place
            return converted
    return image.convert("RGB")


_SRGB = ImageCms.createProfile("sRGB")


def warm_up() -> None:
    """Decode a small image of each format, so that nothing is left to be imported behind the walls."""
    profile = ImageCms.ImageCmsProfile(_SRGB).tobytes()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for mode in ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1", "I;16"):
        for kind in FORMATS:
            file = io.BytesIO()
            try:
                Image.new(mode, (MIN_SIDE, MIN_SIDE)).save(file, kind, icc_profile=profile, exif=exif)
            except (OSError, ValueError, KeyError):  # This format has no such mode.
                continue
            decode(file.getvalue())
    for broken in (b"", b"GIF89a", b"<html>"):
        with contextlib.suppress(PhotoRefused):
            decode(broken)
