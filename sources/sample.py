"""Photographs from scikit-image's wheel, with which everything can be tried on a machine without images."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from perturb.schemas.challenge import Photo
from perturb.schemas.image import Pixels

_CC0 = "CC0-1.0"
# The smallest crop, as a share of the photograph's short side; smaller ones would be blurred by enlarging.
_MIN_SIDE_SHARE = 0.55


@dataclass(frozen=True)
class _Original:
    """One photograph: how scikit-image names it, and what its documentation says about origin and licence."""

    name: str
    subject: str
    author: str
    license: str


_ORIGINALS = (
    _Original("camera", "camera on a tripod", "Lav Varshney", _CC0),
    _Original("chelsea", "cat", "Stefan van der Walt", _CC0),
    _Original("coffee", "cup of coffee", "Rachel Michetti", _CC0),
    _Original(
        "motorcycle_left", "motorcycle", "D. Scharstein et al.", "not stated (Middlebury Stereo Dataset, GCPR 2014)"
    ),
    _Original(
        "motorcycle_right", "motorcycle", "D. Scharstein et al.", "not stated (Middlebury Stereo Dataset, GCPR 2014)"
    ),
)


class SampleSource:
    """Square crops of five photographs, each crop an image of its own, named `photo@left,top,side`.

    Endless: crops are taken from the photographs in turn, at random and without repetition.
    """

    name = "sample"

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield crops in an order that `seed` fixes."""
        rng = random.Random(seed)
        seen: set[str] = set()
        while True:
            for original in rng.sample(_ORIGINALS, len(_ORIGINALS)):
                photo = _crop(original, rng)
                if photo.source_id not in seen:
                    seen.add(photo.source_id)
                    yield photo

    def check(self) -> str:
        """Load the photographs."""
        sizes = [_pixels(original.name).shape for original in _ORIGINALS]
        return f"sample answers: crops of {len(sizes)} photographs from scikit-image"


def _crop(original: _Original, rng: random.Random) -> Photo:
    whole = _pixels(original.name)
    height, width, _ = whole.shape
    largest = min(height, width)
    side = rng.randint(round(largest * _MIN_SIDE_SHARE), largest)
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    return Photo(
        pixels=np.ascontiguousarray(whole[top : top + side, left : left + side]),
        source="sample",
        source_id=f"{original.name}@{left},{top},{side}",
        source_url="https://scikit-image.org/docs/stable/api/skimage.data.html",
        author=original.author,
        license=original.license,
        subject=original.subject,
    )


@cache
def _pixels(name: str) -> Pixels:
    import skimage.data

    data: Any = skimage.data
    if name.startswith("motorcycle"):
        left, right, _ = data.stereo_motorcycle()
        pixels = left if name.endswith("left") else right
    else:
        pixels = getattr(data, name)()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.asarray(pixels, dtype=np.uint8)
