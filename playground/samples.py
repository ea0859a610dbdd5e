"""Photographs for visitors who have none at hand, from scikit-image's wheel."""

import io
from functools import cache

from PIL import Image

SAMPLES = {"coffee": "a cup of coffee", "chelsea": "Chelsea, a cat", "camera": "a camera on a tripod"}
"""Names of the samples with what they show. scikit-image's documentation gives them as CC0."""

_SIDE = 640


@cache
def sample_jpeg(name: str) -> bytes:
    """Return a sample as JPEG, at most 640 pixels a side."""
    import skimage.data

    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
