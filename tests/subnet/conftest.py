"""A challenge on a real photograph, and a validator that sends it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from skimage import data

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.image import encode_png, pixel_identity
from perturb.subnet.keys import Keypair, development_keypair

MakeChallenge = Callable[..., Challenge]


@pytest.fixture(scope="session")
def validator() -> Keypair:
    return development_keypair("//Validator")


@pytest.fixture(scope="session")
def make_challenge() -> MakeChallenge:
    pixels = np.ascontiguousarray(data.astronaut()[:224, 100:324])
    origin = Origin(source="sample", source_id="astronaut", clean_confidence=0.9, clean_margin=5.0, judge="none")

    def make(number: int = 0, *, timeout_ms: int = 5000) -> Challenge:
        task = Task(
            task_id=f"{number:032x}",
            true_label=652,
            true_label_name="military uniform",
            classifier="tf_efficientnet_lite0",
            classifier_sha256="0" * 64,
            bounds=Bounds(),
            timeout_ms=timeout_ms,
            height=224,
            width=224,
            original_sha256=pixel_identity(pixels),
        )
        return Challenge("20260101T000000000000Z-00000000", datetime.now(UTC), task, origin, encode_png(pixels))

    return make
