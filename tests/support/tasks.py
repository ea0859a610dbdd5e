"""The one builder of a task, the part of a challenge that miners are sent, for tests and benchmarks."""

from typing import Any

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Task, Terms
from perturb.schemas.image import Pixels, pixel_identity


def make_task(pixels: Pixels | None = None, *, number: int = 0, **changes: Any) -> Task:
    """Return a valid task for `pixels`, uint8 (height, width, 3), with `number` in its salt; `changes` override terms.

    Without pixels it is a task of 224x224 values whose `original_sha256` is 64 zeros.
    """
    facts: dict[str, Any] = {
        "task_salt": f"{number:032x}",
        "true_label": 652,
        "true_label_name": "military uniform",
        "classifier": "tf_efficientnet_lite0",
        "classifier_sha256": "0" * 64,
        "bounds": Bounds(),
        "timeout_ms": 20_000,
        "height": 224,
        "width": 224,
        "original_sha256": "0" * 64,
    }
    if pixels is not None:
        facts |= {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "original_sha256": pixel_identity(pixels),
        }
    return Terms.model_validate(facts | changes).as_task()
