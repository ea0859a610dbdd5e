"""Decoding of stored images: a store may have changed what was accepted once, so they are hostile again."""

from collections import defaultdict
from collections.abc import Sequence

from perturb.sandbox.pool import shared_pool
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused, stored_size


def decode_stored(images: Sequence[tuple[bytes, int, int]]) -> list[Pixels | PngRefused]:
    """Return for each PNG, which must have the given height and width, its pixels, or why it is refused.

    Those of one size are decoded together, by workers that are used for nothing else.
    """
    results: dict[int, Pixels | PngRefused] = {}
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (_, height, width) in enumerate(images):
        by_size[height, width].append(index)
    for (height, width), indices in by_size.items():
        decoded = shared_pool().decode([images[index][0] for index in indices], height=height, width=width)
        results |= dict(zip(indices, decoded, strict=True))
    return [results[index] for index in range(len(images))]


def pair_pixels(pair: Pair) -> tuple[Pixels, Pixels]:
    """Return original and perturbed image, uint8 (height, width, 3) each.

    Raises CorpusError where one is not an accepted PNG, or has other pixels than its row states, if it states them.
    """
    try:
        sized = [(image, *stored_size(image)) for image in (pair.original, pair.perturbed)]
    except PngRefused as refused:
        raise CorpusError(f"an image of a record can't be shown: {refused.detail}; run perturb audit") from refused
    original, perturbed = decode_stored(sized)
    return (
        _checked(original, "original", pair.row.get("original_sha256")),
        _checked(perturbed, "perturbed", pair.row.get("perturbed_sha256")),
    )


def _checked(image: Pixels | PngRefused, which: str, identity: str | None) -> Pixels:
    if isinstance(image, PngRefused):
        raise CorpusError(f"the {which} image of a record can't be shown: {image.detail}; run perturb audit")
    if identity is not None and pixel_identity(image) != identity:
        raise CorpusError(f"the {which} image of a record has other pixels than the record states; run perturb audit")
    return image
