"""Where near duplicates begin: at a cosine above 0.95, one changed value to either side of it."""

import numpy as np
import pytest

from perturb.models.judge.judge import NoJudge
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.record import record_id
from perturb.tasks.verify.case import Case
from perturb.tasks.verify.context import RoundContext
from perturb.tasks.verify.gates.accepted import NearDuplicates
from tests.support.verification_rounds import SETTINGS, answers, challenge, classifier


@pytest.mark.parametrize(("more", "marked"), [(1, True), (-1, False)])
def test_a_cosine_above_095_is_a_near_duplicate(more: int, marked: bool) -> None:
    context = RoundContext.of(challenge(), classifier=classifier(), judge=NoJudge(), settings=SETTINGS)
    clean = context.clean.astype(int)
    change = np.where(clean < 255, 1, -1).reshape(-1)
    # A perturbation and the part of it that changes a share of the values by the same have the cosine sqrt(share).
    part = change.copy()
    part[round(0.95**2 * change.size) + more :] = 0
    images = [(clean + step.reshape(clean.shape)).astype(np.uint8) for step in (change, part)]
    cases = [Case(response) for response in answers([encode_png(image) for image in images])]
    for case, image in zip(cases, images, strict=True):
        case.pixels = image
        case.findings.perturbed_sha256 = pixel_identity(image)
    NearDuplicates()(cases, context)
    first = record_id(context.created_at, context.task.task_id, "miner-0", pixel_identity(images[0]))
    assert [case.findings.near_duplicate_of for case in cases] == [None, first if marked else None]
