"""A round verified in slices, in any places, is the round verified as a whole."""

import dataclasses
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import Judgement, NoJudge
from perturb.sandbox.pool import DecodePool
from perturb.schemas.challenge import Challenge
from perturb.schemas.image import encode_png
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.merge_slices import merge_slices
from perturb.tasks.verify.round import verify
from tests.support.verification_rounds import SETTINGS, answers, attack, challenge, classifier, clean, flipped

pytestmark = pytest.mark.slow


def with_extras(batch_size: int) -> Settings:
    """Persistence and transfer are recorded; the network takes so many images at once (0: one on a CPU)."""
    extras = {"persistence": True, "transfer": (SETTINGS.classifier.name,), "batch_size": batch_size}
    return SETTINGS.model_copy(update={"classifier": SETTINGS.classifier.model_copy(update=extras)})


JUG = 899  # "water jug": what the second attack steers to, and the judge holds for another cup of espresso


class JugsAreCups:
    """Holds one label for the same kind of thing as any other; says how sure it is, too."""

    name, sha256 = "jugs", None

    def belongs(self, pairs: list[tuple[int, str]]) -> list[Judgement]:
        return [Judgement(None, True) for _ in pairs]

    def same_kind(self, pairs: list[tuple[int, int]]) -> list[Judgement]:
        return [Judgement(label / 1000, label == JUG) for _, label in pairs]


@cache
def everything(batch_size: int = 0) -> tuple[Challenge, list[Response], list[Verdict]]:
    """A round with copies, near copies, flips to several labels, refusals of each kind; and its verdicts."""
    good, other = flipped(), attack(want=2.0, levels=2, seed=5, toward=JUG)
    near = good.copy()
    near[0, 0] = clean()[0, 0] + 1
    wild = np.random.default_rng(0).integers(0, 256, clean().shape, dtype=np.uint8)
    pictures = [good, near, other, clean(), good, wild, other, near, attack(want=1.0, levels=2, seed=9), good]
    bodies = [*(encode_png(picture) for picture in pictures), b"no picture", encode_png(good)[:-9]]
    responses = [
        dataclasses.replace(response, response_ms=(7 * place) % 5 * 10.0)
        for place, response in enumerate(answers(bodies))
    ]
    responses.insert(3, Response(90, "miner-90", 20_000.0, failure="timeout", detail="no answer in 20 s"))
    asked, settings = challenge(), with_extras(batch_size)
    network = load_classifier(settings.classifier)
    return asked, responses, verify(asked, responses, classifier=network, judge=JugsAreCups(), settings=settings)


def test_the_round_holds_what_can_go_wrong() -> None:
    _, _, whole = everything()
    outcomes = {verdict.outcome for verdict in whole}
    assert outcomes >= {"accepted", "duplicate", "semantic_match", "unchanged", "linf_too_large", "corrupt", "timeout"}
    assert any(verdict.near_duplicate_of for verdict in whole)


def in_slices(cuts: list[int], batch_size: int) -> list[Verdict]:
    asked, responses, _ = everything(batch_size)
    answered = [response for response in responses if response.failure is None]
    wanted = with_extras(batch_size)
    network = load_classifier(wanted.classifier)
    return [
        verdict
        for start, end in pairwise(cuts)
        for verdict in verify(asked, answered[start:end], classifier=network, judge=NoJudge(), settings=wanted)
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=4).map(lambda cuts: sorted({0, 12, *cuts})), st.sampled_from([0, 5]))
def test_slices_merge_to_what_the_whole_round_is(cuts: list[int], batch_size: int) -> None:
    asked, responses, whole = everything(batch_size)
    apart = in_slices(cuts, batch_size)
    merged = merge_slices(
        asked, responses, apart, classifier=classifier(), judge=JugsAreCups(), settings=with_extras(batch_size)
    )
    assert merged == whole


def test_an_answer_that_cannot_be_decoded_again_keeps_its_verdict() -> None:
    asked, responses, whole = everything()
    apart = in_slices([0, 12], 0)
    with DecodePool(seconds=0.0) as pool:
        merged = merge_slices(
            asked,
            responses,
            apart,
            classifier=classifier(),
            judge=JugsAreCups(),
            settings=with_extras(0),
            pool=pool,
        )
    assert merged == [verdict.model_copy(update={"near_duplicate_of": None}) for verdict in whole]
