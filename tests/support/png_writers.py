"""PNG files of the same pixels as several programs would write them."""

import struct
import zlib

import numpy as np

from perturb.schemas.image import Pixels


def png_of(pixels: Pixels, *, level: int, row_filter: int, idat: int | list[int]) -> bytes:
    """Return an 8-bit RGB PNG of uint8 (height, width, 3) pixels.

    `level` is zlib's 0 to 9, `row_filter` 0 (none), 1 (left) or 2 (above). `idat` gives the bytes of each IDAT chunk,
    or those of the first ones; the rest follows in one chunk.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, 3 * width)
    before = np.zeros_like(rows)
    if row_filter == 1:
        before[:, 3:] = rows[:, :-3]
    elif row_filter == 2:
        before[1:] = rows[:-1]
    filtered = np.insert(rows - before, 0, row_filter, axis=1).astype(np.uint8)
    left = zlib.compress(filtered.tobytes(), level)
    sizes = idat if isinstance(idat, list) else [idat] * (len(left) // idat)
    parts = []
    for size in sizes:
        parts.append(left[:size])
        left = left[size:]
    chunks = [(b"IDAT", part) for part in (*parts, left) if part]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", header), *chunks, (b"IEND", b"")]
    )
