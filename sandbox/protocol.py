"""What a pool and its workers say to each other, and how their shared memory is laid out.

A channel is a SOCK_SEQPACKET socket, so that each message arrives whole. The first two, in any order, are `FORKED` from
the template, with the descriptor of the process, and `HELLO` from the worker. Then each `REQUEST` (height, width,
length of the data; height and width 0 where the image decides) is answered by `REPLY` (height, width of a decoded
image, or 0 and 0) and, for an image that is refused, at most `MOST_DETAIL` bytes of "reason\\ndetail".

In the shared memory the pixels come first, in a room whose size is fixed, and the data after them.
"""

import mmap
import struct
from dataclasses import dataclass

import numpy as np

from perturb.schemas.image import Pixels

FORK = struct.Struct(">QQ")
FORKED = struct.Struct(">4sI")
FORKED_MARK = b"fork"
HELLO = struct.Struct(">4sI")
HELLO_MARK = b"open"
REQUEST = struct.Struct(">IIQ")
REPLY = struct.Struct(">II")
MOST_DETAIL = 2000


class Refused(Exception):
    """Raised by a decoder for an image that it doesn't decode: one of its reasons, and a sentence about it."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Room:
    """The shared memory of a worker: bytes for the pixels, and bytes for the data that they are decoded from."""

    pixels: int
    data: int

    def __post_init__(self) -> None:
        if self.pixels < 3 or self.data < 1:
            raise ValueError(f"a room of {self.pixels} and {self.data} bytes holds no image")

    @property
    def size(self) -> int:
        """The size of the whole memory, in bytes."""
        return self.pixels + self.data

    def holds(self, other: "Room") -> bool:
        """Return whether whatever fits into the other room fits into this one."""
        return self.pixels >= other.pixels and self.data >= other.data

    def data_at(self, length: int) -> slice:
        """Return where data of a length lies."""
        return slice(self.pixels, self.pixels + length)


def pixels_in(memory: mmap.mmap, height: int, width: int) -> Pixels:
    """Return the pixels in the shared memory, uint8 (height, width, 3), as a view."""
    return np.frombuffer(memory, np.uint8, count=height * width * 3).reshape(height, width, 3)
