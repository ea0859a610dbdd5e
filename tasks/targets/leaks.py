"""Leaks: test photographs that are among the training ones, or nearly."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from perturb.schemas.image import Pixels, pixel_identity

# Of 256 bits. Unrelated photographs differ in about half of them, one that was compressed anew or scaled in a few.
_NEAR_BITS = 26
_SIDE = 16
# A plain photograph has a hash of nearly only zeros, like every other plain one: it says nothing about either.
_TELLING = range(_NEAR_BITS + 1, _SIDE * _SIDE - _NEAR_BITS)


def shared_photographs(test: Sequence[Pixels], training: Sequence[Pixels]) -> list[int]:
    """Return the places in `test` of images (uint8, H x W x 3, any size) that `training` holds.

    Same pixels count, and near duplicates: difference hashes at most 26 of 256 bits apart. Of photographs so plain that
    their hash has no more than 26 bits of either kind, only the same pixels count.
    """
    if not len(training):
        return []
    identities = {pixel_identity(image) for image in training}
    hashes = np.stack([difference_hash(image) for image in training])
    return [
        place
        for place, image in enumerate(test)
        if pixel_identity(image) in identities or _is_near(difference_hash(image), hashes)
    ]


def _is_near(own: npt.NDArray[np.bool_], hashes: npt.NDArray[np.bool_]) -> bool:
    return int(own.sum()) in _TELLING and bool((hashes != own).sum(axis=1).min() <= _NEAR_BITS)


def difference_hash(image: Pixels) -> npt.NDArray[np.bool_]:
    """Return 256 bits: whether each cell of a 16 x 17 grey miniature is darker than the cell to its right."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits: npt.NDArray[np.bool_] = (small[:, :-1] < small[:, 1:]).ravel()
    return bits
