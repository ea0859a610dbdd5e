"""A challenge on a real photograph, and a validator that sends it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from skimage import data

from perturb.schemas.challenge import Challenge, Origin
from perturb.schemas.image import encode_png
from perturb.subnet.keys import Keypair, development_keypair
from tests.support.tasks import make_task

MakeChallenge = Callable[..., Challenge]


@pytest.fixture(scope="session")
def validator() -> Keypair:
    return development_keypair("//Validator")


@pytest.fixture(scope="session")
def make_challenge() -> MakeChallenge:
    pixels = np.ascontiguousarray(data.astronaut()[:224, 100:324])
    origin = Origin(source="sample", source_id="astronaut", clean_confidence=0.9, clean_margin=5.0, judge="none")

    def make(number: int = 0, *, timeout_ms: int = 5000) -> Challenge:
        task = make_task(pixels, number=number, timeout_ms=timeout_ms)
        return Challenge("20260101T000000000000Z-00000000", datetime.now(UTC), task, origin, encode_png(pixels))

    return make
