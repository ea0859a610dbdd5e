"""What a decode pool and its worker processes say to each other, and how their shared memory is laid out.

Over a socket go fixed-size heads. A request is `REQUEST` (height, width, length of the compressed data); with the first
one, and with one whose images are larger, comes the descriptor of the shared memory. A reply is `REPLY`, the length of
the text that follows: 0 for a decoded image, else at most `MOST_DETAIL` bytes of "outcome\\ndetail".

In the shared memory the pixels come first, `height * width * 3` bytes, and the compressed data after them.
"""

import mmap
import struct

import numpy as np

from perturb.schemas.image import Pixels
from perturb.schemas.png import max_png_bytes

REQUEST = struct.Struct(">IIQ")
REPLY = struct.Struct(">I")
MOST_DETAIL = 2000


def memory_bytes(height: int, width: int) -> int:
    """Return how much shared memory images of one size need."""
    return height * width * 3 + max_png_bytes(height, width)


def compressed_at(height: int, width: int, length: int) -> slice:
    """Return where the compressed data of an image lies in the shared memory."""
    start = height * width * 3
    return slice(start, start + length)


def pixels_in(memory: mmap.mmap, height: int, width: int) -> Pixels:
    """Return the pixels in the shared memory, uint8 (height, width, 3), as a view."""
    return np.frombuffer(memory, np.uint8, count=height * width * 3).reshape(height, width, 3)
