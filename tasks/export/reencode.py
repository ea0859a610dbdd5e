"""Perturbed images for tiers that do not show hotkeys: the pixels as they were, in a file that no miner made.

A PNG tells which program wrote it (row filters, compression, lengths of chunks), and has room for a mark. So the pixels
are encoded anew by the encoder of the original images.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused
from perturb.schemas.record import Row


def reencode(pairs: Sequence[Pair]) -> list[bytes]:
    """Return the perturbed image of each pair as a PNG that depends on its pixels alone.

    The rows need `height`, `width`, `perturbed_sha256` and the pointer. Miners' files are decoded in the sandboxed
    processes. Raises CorpusError for an image whose pixels are not those of its record.
    """
    rows = [pair.row for pair in pairs]
    images = [(pair.perturbed, row["height"], row["width"]) for pair, row in zip(pairs, rows, strict=True)]
    pixels = decode_stored(images)
    # Pillow encodes without Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(_encoded, pixels, rows))


def _encoded(pixels: Pixels | PngRefused, row: Row) -> bytes:
    if isinstance(pixels, PngRefused) or pixel_identity(pixels) != row["perturbed_sha256"]:
        reason = pixels.detail if isinstance(pixels, PngRefused) else "its pixels have another identity"
        raise CorpusError(
            f"the image at byte {row['perturbed_offset']} of {row['perturbed_shard']} is not what its record says "
            f"({reason}); run perturb audit"
        )
    return encode_png(pixels)
