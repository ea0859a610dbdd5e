"""A decoder that dies, hangs, allocates or reveals its environment, as the first pixel says. Runs in the sandbox."""

import os
import time

from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused, decode_pixels


def decode(compressed: bytes, *, height: int, width: int) -> Pixels:
    pixels = decode_pixels(compressed, height=height, width=width)
    red, green, command = (int(value) for value in pixels[0, 0])
    if (red, green) == (251, 17):
        if command == 1:
            os.abort()
        if command == 2:
            time.sleep(3600)
        if command == 3:
            bytearray(256 * 2**20)
        if command == 4:
            raise PngRefused(Outcome.CORRUPT, " ".join(os.environ))
    return pixels
