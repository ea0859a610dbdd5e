"""From an image file of any origin to upright sRGB pixels, decoded behind walls (`perturb.sandbox`)."""

import atexit
import os
import threading
from pathlib import Path

from perturb.sandbox.photo import FORMATS, MAX_BYTES, MAX_PIXELS, MIN_SIDE
from perturb.sandbox.pool import Workers
from perturb.sandbox.process import Refusal
from perturb.sandbox.protocol import Room
from perturb.schemas.errors import SourceError
from perturb.schemas.image import Pixels
from perturb.schemas.printable import printable_name

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "UnusableImage", "decode_photo", "photo_workers", "read_photo"]

_SECONDS = 30.0
# The largest photograph takes 192 MB, and turning, converting and flattening it take as much again, each for a while.
_MEMORY_BYTES = 2 * 2**30
_UNUSABLE = "unusable"


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
    as in a viewer. Raises UnusableImage for anything else, for missing pixels, for a side under MIN_SIDE pixels, for a
    JPEG of too many scans, for a file that takes too long or too much memory to decode, and, before decoding, for an
    image that declares more than MAX_PIXELS. Raises PerturbError where the walls that are required do not stand.
    """
    if len(data) > MAX_BYTES:
        raise UnusableImage(f"it has {len(data):,} bytes; accepted: up to {MAX_BYTES:,}")
    room = Room(MAX_PIXELS * 3, MAX_BYTES)
    ((_, result),) = photo_workers().decode_each([data], room)
    if isinstance(result, Refusal):
        raise UnusableImage(printable_name(result.detail))
    if min(result.shape[:2]) < MIN_SIDE:
        raise UnusableImage(f"its decoder gave {result.shape[1]} x {result.shape[0]} pixels")
    return result


_workers: dict[int, Workers] = {}
_opening = threading.Lock()


def photo_workers() -> Workers:
    """Return the process's own decoder of photographs, made when first asked for and closed at exit."""
    with _opening:
        workers = _workers.get(os.getpid())
        if workers is None:
            workers = _workers[os.getpid()] = Workers(
                "perturb.sandbox.photo:decode",
                reasons=[_UNUSABLE],
                count=1,
                memory_bytes=_MEMORY_BYTES,
                seconds=_SECONDS,
            )
            atexit.register(workers.close)
        return workers
