"""The strict reader of the file format of answers. Any other file is refused with a reason.

Accepted is an 8-bit RGB PNG (PNG specification, third edition) of the challenge's size, not interlaced, that consists
of IHDR, IDAT and IEND chunks with valid checksums, with nothing after its end and nothing after the end of its zlib
stream. So an accepted file contains only pixels, and its decoded size is known before any byte is inflated.

This module imports nothing heavier than Pillow and NumPy, because the sandboxed decoders
(`perturb.sandbox`) run it.
"""

import contextlib
import io
import struct
import zlib

import numpy as np
from PIL import Image

from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome

# More than the input of any classifier. A row of a hostile store may state any size.
MAX_PIXELS = 2**24

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ACCEPTED = "send an 8-bit RGB PNG of the challenge's size with IHDR, IDAT and IEND chunks only"
_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
_OTHER_FORMATS = {
    b"\xff\xd8\xff": "a JPEG",
    b"GIF8": "a GIF",
    b"RIFF": "a WebP or other RIFF file",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"P6": "a PPM",
    b"\0\0\1\0": "an ICO",
}


class PngRefused(Exception):
    """A file is not accepted. `outcome` goes into the record, `detail` is a sentence for the miner."""

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


def max_png_bytes(height: int, width: int) -> int:
    """Return the maximum bytes of an accepted PNG of this size: its raw rows, 1/64 of them for framing, and 4 KiB."""
    raw = _raw_bytes(height, width)
    return raw + raw // 64 + 4096


def max_idat_chunks(height: int, width: int) -> int:
    """Return the maximum IDAT chunks of an accepted PNG of this size: a few hundred, and what libpng needs besides.

    libpng writes chunks of 8 KiB, which is the least of the common encoders. Each chunk costs the reader time.
    """
    return 256 + _raw_bytes(height, width) // 8192


def check_png(data: bytes, *, height: int, width: int) -> bytes:
    """Check a file's structure and return its compressed pixel data, without decompressing it.

    It only slices the bytes and computes checksums, so that it is safe for any input. Raises PngRefused.
    """
    if not 0 < height * width <= MAX_PIXELS:
        raise PngRefused(Outcome.WRONG_SIZE, f"a PNG of {width}x{height} is not accepted; at most {MAX_PIXELS} pixels")
    if not data:
        raise PngRefused(Outcome.NOT_PNG, f"the body is empty; {_ACCEPTED}")
    if len(data) > max_png_bytes(height, width):
        raise PngRefused(
            Outcome.TOO_LARGE,
            f"the body has {len(data)} bytes, a {width}x{height} RGB PNG needs at most {max_png_bytes(height, width)}",
        )
    if data[:8] != _SIGNATURE:
        found = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), "not a PNG")
        raise PngRefused(Outcome.NOT_PNG, f"the body is {found}; {_ACCEPTED}")
    idat: list[bytes] = []
    position, previous, most = 8, b"", max_idat_chunks(height, width)
    while previous != b"IEND":
        kind, payload, position = _chunk(data, position)
        if previous == b"":
            _check_header(kind, payload, height=height, width=width)
        elif kind == b"IDAT":
            if not payload:
                raise PngRefused(Outcome.CORRUPT, "the PNG has an empty IDAT chunk; send none")
            if len(idat) >= most:
                raise PngRefused(
                    Outcome.EXTRA_CHUNKS, f"the PNG has more than {most} IDAT chunks; send 8192 bytes or more in each"
                )
            idat.append(payload)
        elif kind != b"IEND":
            raise PngRefused(Outcome.EXTRA_CHUNKS, f"the PNG has a {_shown(kind)} chunk; {_ACCEPTED}")
        elif payload:
            raise PngRefused(Outcome.CORRUPT, f"the PNG's IEND chunk holds {len(payload)} bytes; it must be empty")
        previous = kind
    if position != len(data):
        raise PngRefused(
            Outcome.TRAILING_DATA, f"{len(data) - position} bytes follow the PNG's IEND chunk; send nothing after it"
        )
    return b"".join(idat)


def read_png(data: bytes, *, height: int, width: int) -> Pixels:
    """Return the pixels of an accepted file, uint8 (height, width, 3). Raises PngRefused.

    Memory stays within a few times height x width x 3 for any input, because inflating stops at the known size.
    """
    return decode_pixels(check_png(data, height=height, width=width), height=height, width=width)


def stored_size(data: bytes) -> tuple[int, int]:
    """Return height and width that the header of a stored PNG states. Raises PngRefused where it has no header."""
    if len(data) < 24:
        raise PngRefused(Outcome.NOT_PNG, f"a PNG of {len(data)} bytes is too short for its header")
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def stored_pixels(data: bytes) -> Pixels:
    """Return the pixels of a PNG of this process's own, uint8 (height, width, 3). Raises PngRefused.

    Images that come from a store are decoded by `perturb.sandbox.stored` instead.
    """
    height, width = stored_size(data)
    return read_png(data, height=height, width=width)


def decode_pixels(compressed: bytes, *, height: int, width: int) -> Pixels:
    """Return the pixels, uint8 (height, width, 3), of what `check_png` returned. This half runs in a sandbox."""
    rows = _inflate(compressed, height=height, width=width)
    worst = int(np.frombuffer(rows, np.uint8).reshape(height, 1 + 3 * width)[:, 0].max())
    if worst > 4:
        raise PngRefused(Outcome.CORRUPT, f"a row of the PNG has filter type {worst}; the PNG format has types 0 to 4")
    # Pillow undoes the row filters. It gets them stored, not deflated, so that inflating happens once, and strictly.
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b""))
    plain = _SIGNATURE + b"".join(_packed(kind, payload) for kind, payload in parts)
    try:
        with Image.open(io.BytesIO(plain), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise PngRefused(Outcome.CORRUPT, f"the PNG's pixels cannot be decoded ({error}); {_ACCEPTED}") from error
    if pixels.shape != (height, width, 3):
        raise PngRefused(Outcome.CORRUPT, f"the PNG's pixels decode to the shape {pixels.shape}; {_ACCEPTED}")
    return pixels


def warm_up() -> None:
    """Decode an image and a damaged one, so that nothing is left to be imported in the process that decodes."""
    rows = bytes(_raw_bytes(8, 8))
    decode_pixels(zlib.compress(rows), height=8, width=8)
    for damaged in (b"", zlib.compress(b"\5" + rows[1:])):
        with contextlib.suppress(PngRefused):
            decode_pixels(damaged, height=8, width=8)


def _raw_bytes(height: int, width: int) -> int:
    return height * (1 + 3 * width)


def _chunk(data: bytes, position: int) -> tuple[bytes, bytes, int]:
    if len(data) < position + 12:
        raise PngRefused(
            Outcome.CORRUPT, f"the PNG ends after {len(data)} bytes without an IEND chunk; send the whole file"
        )
    (length,) = struct.unpack_from(">I", data, position)
    kind = data[position + 4 : position + 8]
    end = position + 12 + length
    if end > len(data):
        raise PngRefused(
            Outcome.CORRUPT,
            f"the PNG's {_shown(kind)} chunk states {length} bytes, only {len(data) - position - 12} follow",
        )
    (stated,) = struct.unpack_from(">I", data, end - 4)
    if zlib.crc32(data[position + 4 : end - 4]) != stated:
        raise PngRefused(Outcome.CORRUPT, f"the checksum of the PNG's {_shown(kind)} chunk at byte {position} is wrong")
    return kind, data[position + 8 : end - 4], end


def _check_header(kind: bytes, payload: bytes, *, height: int, width: int) -> None:
    if kind != b"IHDR" or len(payload) != 13:
        raise PngRefused(Outcome.CORRUPT, f"the PNG starts with {_shown(kind)} of {len(payload)} bytes, not with IHDR")
    found_width, found_height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", payload)
    if (found_width, found_height) != (width, height):
        raise PngRefused(
            Outcome.WRONG_SIZE,
            f"the PNG is {found_width}x{found_height}, but the challenge is {width}x{height} (width x height)",
        )
    if (depth, colour) != (8, 2):
        name = _COLOUR_TYPES.get(colour, f"colour type {colour}")
        raise PngRefused(Outcome.WRONG_MODE, f"the PNG is {depth}-bit {name}; {_ACCEPTED}")
    if interlace == 1:
        raise PngRefused(Outcome.WRONG_MODE, f"the PNG is interlaced; {_ACCEPTED}, not interlaced")
    if (compression, filtering, interlace) != (0, 0, 0):
        raise PngRefused(
            Outcome.CORRUPT,
            f"the PNG's IHDR has methods {compression}, {filtering}, {interlace}; PNG has only 0, 0, 0",
        )


def _inflate(compressed: bytes, *, height: int, width: int) -> bytes:
    size = _raw_bytes(height, width)
    stream = zlib.decompressobj()
    try:
        rows = stream.decompress(compressed, size + 1)
    except zlib.error as error:
        raise PngRefused(Outcome.CORRUPT, f"the PNG's pixel data cannot be inflated ({error})") from error
    if len(rows) > size:
        raise PngRefused(Outcome.CORRUPT, f"the PNG's pixel data inflates to more than the {size} bytes of its size")
    if len(rows) < size or not stream.eof:
        raise PngRefused(
            Outcome.CORRUPT,
            f"the PNG's pixel data ends early: {len(rows)} of {size} bytes, {'whole' if stream.eof else 'cut'} stream",
        )
    if stream.unused_data:
        raise PngRefused(
            Outcome.TRAILING_DATA,
            f"{len(stream.unused_data)} bytes follow the end of the PNG's pixel data; send nothing after it",
        )
    return rows


def _packed(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _shown(kind: bytes) -> str:
    return kind.decode("ascii") if kind.isalpha() else kind.hex()
