"""Leaks: a test photograph is found in the training ones, compressed or scaled too; another photograph is not."""

import cv2
import numpy as np
from skimage import data

from perturb.tasks.targets.leaks import difference_hash, shared_photographs


def test_the_same_photograph_is_found_and_others_are_not() -> None:
    cat, coffee, astronaut = data.chelsea(), data.coffee(), data.astronaut()
    packed = cv2.imdecode(cv2.imencode(".jpg", cat, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    scaled = cv2.resize(coffee, (224, 224), interpolation=cv2.INTER_AREA)
    assert not np.array_equal(packed, cat)
    assert shared_photographs([packed, scaled, astronaut], [cat, coffee]) == [0, 1]
    assert shared_photographs([astronaut], [astronaut.copy()]) == [0]
    assert shared_photographs([astronaut], []) == []
    for first, second in ((cat, coffee), (cat, astronaut), (coffee, astronaut)):
        assert (difference_hash(first) != difference_hash(second)).sum() > 64


def test_plain_photographs_are_not_one_another() -> None:
    """All plain images have one hash; only the same pixels are the same photograph."""
    random = np.random.default_rng(0)
    night, snow = (np.clip(random.normal(mean, 0.3, (224, 224, 3)), 0, 255).astype(np.uint8) for mean in (9, 240))
    flat = np.full((224, 224, 3), 30, np.uint8)
    assert (difference_hash(flat) == difference_hash(flat + 100)).all()
    assert shared_photographs([flat, night], [flat + 100, snow]) == []
    assert shared_photographs([flat], [flat.copy()]) == [0]
