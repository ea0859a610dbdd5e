"""Photographs from the wheels of scikit-image and matplotlib: everything can be tried on a machine without images."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from perturb.schemas.challenge import Photo
from perturb.schemas.image import Pixels
from perturb.schemas.imagenet import class_names

_CC0 = "CC0-1.0"
_PUBLIC_DOMAIN = "public domain"
_MIDDLEBURY = ("D. Scharstein et al.", "not stated (Middlebury Stereo Dataset, GCPR 2014)")
_SCIKIT_IMAGE = "https://scikit-image.org/docs/stable/api/skimage.data.html"
_MATPLOTLIB = "https://commons.wikimedia.org/wiki/File:Commodore_Grace_M._Hopper,_USN_(covered).jpg"
# The smallest crop, as a share of the photograph's short side; smaller ones would be blurred by enlarging.
_MIN_SIDE_SHARE = 0.55


@dataclass(frozen=True)
class _Original:
    """One photograph: author and licence as the package's documentation, or the page at `url`, states them."""

    name: str
    author: str
    license: str
    url: str = _SCIKIT_IMAGE


@dataclass(frozen=True)
class _View:
    """A part of a photograph that shows `subject`.

    Crops are taken anywhere or, with `box` (left, top, side), there, give or take `jitter` pixels. `label` is the class
    of what the box shows, where the subject leaves several.
    """

    original: _Original
    subject: str
    box: tuple[int, int, int] | None = None
    jitter: int = 0
    label: str | None = None


_CAMERA = _Original("camera", "Lav Varshney", _CC0)
_CHELSEA = _Original("chelsea", "Stefan van der Walt", _CC0)
_COFFEE = _Original("coffee", "Rachel Michetti", _CC0)
_LEFT = _Original("motorcycle_left", *_MIDDLEBURY)
_RIGHT = _Original("motorcycle_right", *_MIDDLEBURY)
_ASTRONAUT = _Original("astronaut", "NASA", _PUBLIC_DOMAIN)
_ROCKET = _Original("rocket", "SpaceX", _CC0)
_HOPPER = _Original("grace_hopper", "James S. Davis, U.S. Navy", _PUBLIC_DOMAIN, _MATPLOTLIB)

_VIEWS = (
    _View(_CAMERA, "camera on a tripod"),
    _View(_CHELSEA, "cat"),
    _View(_CHELSEA, "cat", (118, 46, 102), 4),
    _View(_COFFEE, "cup of coffee"),
    _View(_LEFT, "motorcycle"),
    _View(_RIGHT, "motorcycle"),
    _View(_LEFT, "front wheel of a motorcycle", (523, 307, 101), 4, "disk brake"),
    _View(_RIGHT, "front wheel of a motorcycle", (473, 304, 109), 4, "disk brake"),
    _View(_LEFT, "cardboard boxes", (528, 8, 91), 3, "carton"),
    _View(_ASTRONAUT, "model of a space shuttle", (308, 36, 198), 4, "space shuttle"),
    _View(_ASTRONAUT, "helmet of an astronaut", (149, 233, 204), 8, "crash helmet"),
    _View(_ROCKET, "rocket", (181, 121, 275), 4),
    _View(_HOPPER, "tie of a uniform", (213, 362, 145), 5, "Windsor tie"),
    _View(_HOPPER, "officer in uniform", (191, 0, 276), 5, "military uniform"),
)


class SampleSource:
    """Square crops of eight photographs, each crop an image of its own, named `photo@left,top,side`.

    Endless: crops are taken from the photographs' parts in turn, at random and without repetition.
    """

    name = "sample"

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield crops in an order that `seed` fixes."""
        rng = random.Random(seed)
        seen: set[str] = set()
        while True:
            for view in rng.sample(_VIEWS, len(_VIEWS)):
                photo = _crop(view, rng)
                if photo.source_id not in seen:
                    seen.add(photo.source_id)
                    yield photo

    def check(self) -> str:
        """Load the photographs."""
        names = {view.original.name for view in _VIEWS}
        for name in names:
            _pixels(name)
        return f"sample answers: crops of {len(names)} photographs from scikit-image and matplotlib"


def _crop(view: _View, rng: random.Random) -> Photo:
    original = view.original
    whole = _pixels(original.name)
    left, top, side = _square(view, whole, rng)
    return Photo(
        pixels=np.ascontiguousarray(whole[top : top + side, left : left + side]),
        source="sample",
        source_id=f"{original.name}@{left},{top},{side}",
        source_url=original.url,
        author=original.author,
        license=original.license,
        subject=view.subject,
        true_class=None if view.label is None else class_names().index(view.label),
    )


def _square(view: _View, whole: Pixels, rng: random.Random) -> tuple[int, int, int]:
    height, width, _ = whole.shape
    largest = min(height, width)
    if view.box is None:
        side = rng.randint(round(largest * _MIN_SIDE_SHARE), largest)
        top, left = rng.randint(0, height - side), rng.randint(0, width - side)
        return left, top, side
    left, top, side = (value + rng.randint(-view.jitter, view.jitter) for value in view.box)
    side = min(side, largest)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


@cache
def _pixels(name: str) -> Pixels:
    if name == "grace_hopper":
        return _of_matplotlib(f"{name}.jpg")
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


def _of_matplotlib(name: str) -> Pixels:
    import matplotlib as mpl
    from PIL import Image

    with Image.open(Path(mpl.get_data_path()) / "sample_data" / name) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)
