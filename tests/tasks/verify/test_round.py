"""Verification of whole rounds: every gate, in its order, at its exact boundary, the same however it is batched."""

import dataclasses
import hashlib

import numpy as np
import pytest
import skimage.data

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.hypernyms import hypernym_height
from perturb.models.judge.judge import Judgement, NoJudge
from perturb.models.metrics import CleanSsim, distances
from perturb.models.prediction import predict
from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import CorpusError, ModelError, SourceError
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.record import record_id
from perturb.schemas.response import Response
from perturb.schemas.settings import Settings
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.pair import verify_pair
from perturb.tasks.verify.round import verify
from tests.support.verification_rounds import (
    SETTINGS,
    answers,
    attack,
    challenge,
    classifier,
    clean,
    flipped,
    label,
    thinned,
)


def judged(asked: Challenge, images: list[Pixels], *, settings: Settings = SETTINGS, **more: object) -> list[Verdict]:
    responses = answers([encode_png(image) for image in images])
    options = {"classifier": classifier(), "judge": NoJudge(), **more}
    return verify(asked, responses, settings=settings, **options)  # type: ignore[arg-type]


def noisy(levels: int) -> Pixels:
    noise = np.random.default_rng(0).integers(-levels, levels + 1, clean().shape)
    return np.clip(clean().astype(np.int16) + noise, 0, 255).astype(np.uint8)


def at_levels(levels: int, image: Pixels | None = None) -> Pixels:
    """`image` with one value changed by exactly `levels` against the clean one."""
    changed = (clean() if image is None else image).copy()
    row, column = np.argwhere(clean()[..., 0] < 100)[0]
    changed[row, column, 0] = clean()[row, column, 0] + levels
    return changed


def test_a_round_of_everything() -> None:
    asked = challenge()
    good = encode_png(flipped())
    bodies = [
        good,
        encode_png(clean()),
        encode_png(noisy(12)),
        encode_png(noisy(8)),
        encode_png(noisy(4)),
        encode_png(at_levels(3)),
        good,
        good[:-20],
        b"",
        encode_png(clean()[:100]),
    ]
    responses = [*answers(bodies), Response(10, "miner-10", 20_000.0, failure="timeout", detail="no answer in 20 s")]
    verdicts = verify(asked, responses, classifier=classifier(), judge=NoJudge(), settings=SETTINGS)
    assert [verdict.outcome for verdict in verdicts] == [
        "accepted",
        "unchanged",
        "linf_too_large",
        "psnr_too_low",
        "ssim_too_low",
        "no_flip",
        "duplicate",
        "corrupt",
        "not_png",
        "wrong_size",
        "timeout",
    ]
    accepted = verdicts[0]
    assert accepted.perturbed_sha256 == pixel_identity(flipped())
    assert accepted.linf_levels == 1
    assert accepted.l0 == np.count_nonzero(flipped() != clean())
    assert accepted.ssim == pytest.approx(CleanSsim(clean())(flipped()), abs=1e-8)
    assert accepted.margin is not None
    assert accepted.margin > 2.5
    assert accepted.adversarial_label != label()
    assert accepted.semantic_mismatch is True
    assert accepted.detail is None
    assert all(verdict.detail for verdict in verdicts[1:])
    # What lies behind the gate that refused stays null.
    assert verdicts[2].psnr is not None
    assert (verdicts[2].ssim, verdicts[2].margin) == (None, None)
    assert verdicts[4].ssim is not None
    assert verdicts[4].margin is None
    assert verdicts[7].perturbed_sha256 is None


def test_the_fastest_of_equals_keeps_its_score() -> None:
    asked, body = challenge(), encode_png(flipped())
    times = [300.0, 100.0, 200.0, 100.0]
    responses = [Response(10 - i, f"miner-{i}", ms, body=body) for i, ms in enumerate(times)]
    verdicts = verify(asked, responses, classifier=classifier(), judge=NoJudge(), settings=SETTINGS)
    # Miner 3 was as fast as miner 1, and has the lower uid.
    assert [verdict.outcome for verdict in verdicts] == ["duplicate", "duplicate", "duplicate", "accepted"]
    first = record_id(asked.created_at, asked.task.task_id, "miner-3", pixel_identity(flipped()))
    assert [verdict.duplicate_of for verdict in verdicts] == [first, first, first, None]


def test_other_bytes_for_the_same_pixels_are_a_duplicate() -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(flipped()).save(buffer, "PNG", compress_level=1)
    assert buffer.getvalue() != encode_png(flipped())
    responses = answers([encode_png(flipped()), buffer.getvalue()])
    verdicts = verify(challenge(), responses, classifier=classifier(), judge=NoJudge(), settings=SETTINGS)
    assert [verdict.outcome for verdict in verdicts] == ["accepted", "duplicate"]


def test_near_duplicates_are_marked_and_keep_their_place() -> None:
    asked = challenge()
    almost, other = thinned(flipped(), 0.97), attack(want=3.0, seed=5)
    first, second, third = judged(asked, [flipped(), almost, other])
    assert [v.outcome for v in (first, second, third)] == ["accepted"] * 3
    assert second.near_duplicate_of == record_id(
        asked.created_at, asked.task.task_id, "miner-0", first.perturbed_sha256
    )
    assert (first.near_duplicate_of, third.near_duplicate_of) == (None, None)


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.0314, 20 / 255])
def test_linf_turns_between_levels(epsilon: float) -> None:
    bounds = Bounds(epsilon=epsilon, epsilon_min=1 / 255)
    most = bounds.max_levels
    inside, outside = judged(challenge(bounds), [at_levels(most), at_levels(most + 1)])
    assert inside.outcome == "no_flip"
    assert (outside.outcome, outside.linf_levels) == ("linf_too_large", most + 1)
    assert f"above the maximum of {most}" in (outside.detail or "")


def test_linf_has_a_lower_bound() -> None:
    bounds = Bounds(epsilon_min=3 / 255)
    below, at, same = judged(challenge(bounds), [at_levels(2), at_levels(3), clean()])
    assert (below.outcome, at.outcome, same.outcome) == ("linf_too_small", "no_flip", "unchanged")


def test_psnr_turns_at_one_square() -> None:
    image = noisy(3)
    psnr = distances(clean(), image).psnr
    assert psnr is not None
    for bound, outcome in ((psnr - 1e-6, "ssim_too_low"), (psnr + 1e-6, "psnr_too_low")):
        (verdict,) = judged(challenge(Bounds(min_psnr=bound)), [image])
        assert verdict.outcome == outcome


def test_ssim_turns_at_the_recorded_value() -> None:
    image = noisy(1)
    (verdict,) = judged(challenge(), [image])
    exact = round(CleanSsim(clean()).exact(image), 9)
    for bound, outcome in ((exact, "no_flip"), (exact + 1e-9, "ssim_too_low"), (exact - 1e-9, "no_flip")):
        (verdict,) = judged(challenge(Bounds(min_ssim=bound)), [image])
        assert verdict.outcome == outcome
        assert verdict.ssim == exact


def near_the_boundary(network: Classifier, count: int) -> list[Pixels]:
    """Images on the way from the clean to the flipped one, half of them within a few values of where the label
    turns."""
    changed = np.flatnonzero(clean() != flipped())
    np.random.default_rng(3).shuffle(changed)

    def on_the_way(kept: int) -> Pixels:
        image = clean().copy()
        image.reshape(-1)[changed[:kept]] = flipped().reshape(-1)[changed[:kept]]
        return image

    low, high = 0, len(changed)
    while high - low > 1:
        middle = (low + high) // 2
        margin = predict(network.logits(on_the_way(middle)[None])[0], true_label=label()).margin
        low, high = (low, middle) if margin > SETTINGS.classifier.margin_tolerance else (middle, high)
    near = [on_the_way(max(1, high + offset)) for offset in range(-count // 4, count // 4)]
    return near + [on_the_way(int(share * len(changed))) for share in np.linspace(0.05, 1, count - len(near))]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verdicts_do_not_depend_on_the_batch() -> None:
    images = near_the_boundary(classifier(), 208)
    found = []
    for size in (1, 7, 64):
        sized = load_classifier(SETTINGS.classifier.model_copy(update={"batch_size": size}))
        assert sized.batch_size == size
        found.append(judged(challenge(), images, classifier=sized))
    decisions = [[(v.outcome, v.adversarial_label, v.linf_levels, v.ssim) for v in verdicts] for verdicts in found]
    assert decisions[0] == decisions[1] == decisions[2]
    outcomes = [verdict.outcome for verdict in found[0]]
    assert min(outcomes.count("accepted"), outcomes.count("no_flip")) > 50
    margins = np.array([[verdict.margin for verdict in verdicts] for verdicts in found])
    assert np.ptp(margins, axis=0).max() < 1e-3
    assert (np.abs(margins[0] - SETTINGS.classifier.margin_tolerance) < 0.02).sum() > 20


class Jittered:
    """A classifier whose single precision errs in a random direction, as another device's would."""

    def __init__(self, network: Classifier, seed: int):
        self._network, self._generator = network, np.random.default_rng(seed)

    def __getattr__(self, name: str) -> object:
        return getattr(self._network, name)

    def logits(self, pixels: Pixels) -> np.ndarray:
        logits = self._network.logits(pixels)
        return logits + self._generator.uniform(-2e-4, 2e-4, logits.shape).astype(np.float32)


@pytest.mark.slow
def test_no_float_turns_a_flip() -> None:
    images = near_the_boundary(classifier(), 12)
    exact = [predict(row, true_label=label()) for row in classifier().exact_logits(np.stack(images))]
    tolerance = sorted(found.margin for found in exact)[len(exact) // 2]
    settings = SETTINGS.model_copy(
        update={"classifier": SETTINGS.classifier.model_copy(update={"margin_tolerance": max(tolerance, 0.0)})}
    )
    found = [
        [v.outcome for v in judged(challenge(), images, settings=settings, classifier=Jittered(classifier(), seed))]
        for seed in range(3)
    ]
    assert all(outcomes == found[0] for outcomes in found)
    assert {"accepted", "no_flip"} <= set(found[0])


class Same:
    """A judge to whom everything is the same kind of thing; counts what it was asked."""

    name, sha256 = "same", "0" * 64

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def same_kind(self, pairs: list[tuple[int, int]]) -> list[Judgement]:
        self.asked += pairs
        return [Judgement(score=3.5, holds=True) for _ in pairs]


def test_a_flip_to_the_same_kind_of_thing_is_refused() -> None:
    judge = Same()
    verdicts = judged(challenge(), [flipped(), thinned(flipped(), 0.95)], judge=judge)
    assert [verdict.outcome for verdict in verdicts] == ["semantic_match"] * 2
    assert [verdict.semantic_score for verdict in verdicts] == [3.5, 3.5]
    assert verdicts[0].semantic_mismatch is False
    # Asked once for a pair of labels, however many answers lead to it.
    assert len(judge.asked) == len(set(judge.asked))


def test_a_flip_to_an_excluded_label_is_refused_whatever_the_judge_finds() -> None:
    (free,) = judged(challenge(), [flipped()])
    assert free.accepted
    assert free.adversarial_label is not None
    assert free.hypernym_height == hypernym_height(label(), free.adversarial_label) > 0
    (verdict,) = judged(challenge(excluded_labels=(free.adversarial_label,)), [flipped()])
    assert verdict.outcome == "semantic_match"
    assert f"{free.adversarial_label_name!r} is among the challenge's excluded_labels" in str(verdict.detail)
    # The opinion of the judge stands beside the decision.
    assert verdict.semantic_mismatch is True


@pytest.mark.slow
def test_persistence_and_transfer_columns() -> None:
    wanted = SETTINGS.classifier.model_copy(update={"persistence": True, "transfer": ("tf_efficientnet_lite2",)})
    settings = SETTINGS.model_copy(update={"classifier": wanted})
    strong = attack(want=8.0, levels=3)
    verdicts = judged(challenge(Bounds(min_ssim=0.9)), [strong, at_levels(3)], settings=settings)
    assert [verdict.outcome for verdict in verdicts] == ["accepted", "no_flip"]
    assert verdicts[0].persists is not None
    assert verdicts[0].persists.jpeg95
    (other,) = verdicts[0].transfer or ()
    lite2 = load_classifier(settings.classifier, name="tf_efficientnet_lite2")
    assert (other.classifier, other.classifier_sha256) == ("tf_efficientnet_lite2", lite2.sha256)
    assert other.flipped == (other.margin > 0.05)
    assert (verdicts[1].persists, verdicts[1].transfer) == (None, None)


def test_a_pair_gets_the_rounds_verdict() -> None:
    asked = challenge()
    images = [flipped(), noisy(8), at_levels(3), clean()]
    for verdict, image in zip(judged(asked, images), images, strict=True):
        pair = verify_pair(
            asked.png, encode_png(image), label=None, classifier=classifier(), judge=NoJudge(), settings=SETTINGS
        )
        assert pair.verdict == verdict
        assert pair.clean_label == label()
        assert pair.notes == ()
        assert pair.score.score == (0 if verdict.outcome != "accepted" else pytest.approx(0.6, abs=0.1))


def test_a_pair_that_no_validator_would_send_is_noted() -> None:
    pair = verify_pair(
        challenge().png, encode_png(flipped()), label=5, classifier=classifier(), judge=NoJudge(), settings=SETTINGS
    )
    assert "predicts 'espresso' for the clean image, not 'electric ray'" in pair.notes[0]


def test_too_small_a_margin_is_accepted_and_earns_nothing() -> None:
    asked = challenge(Bounds(min_margin=50.0))
    (verdict,) = judged(asked, [flipped()])
    assert verdict.outcome == "accepted"
    assert "accepted with a score of 0: the margin is" in (verdict.detail or "")


def test_what_is_wrong_on_our_side_is_an_error_that_names_it() -> None:
    asked = challenge()
    other = skimage.data.astronaut()[:160, :160]
    with pytest.raises(CorpusError, match="can't be decoded: the PNG ends after"):
        judged(dataclasses.replace(asked, png=asked.png[:-12]), [flipped()])
    with pytest.raises(CorpusError, match="the image belongs to another task"):
        judged(dataclasses.replace(asked, png=encode_png(np.ascontiguousarray(other))), [flipped()])
    beyond = asked.task.model_copy(update={"true_label": 1000})
    with pytest.raises(ModelError, match="label 1000 is outside the classes"):
        judged(dataclasses.replace(asked, task=beyond), [flipped()])
    foreign = asked.task.model_copy(update={"classifier_sha256": hashlib.sha256(b"").hexdigest()})
    with pytest.raises(ModelError, match="was made with tf_efficientnet_lite0"):
        judged(dataclasses.replace(asked, task=foreign), [flipped()])
    with pytest.raises(SourceError, match="the clean image can't be a challenge: the body is a JPEG"):
        verify_pair(b"\xff\xd8\xff\xe0", b"", label=None, classifier=classifier(), judge=NoJudge(), settings=SETTINGS)


def test_a_round_without_answers() -> None:
    assert verify(challenge(), [], classifier=classifier(), judge=NoJudge(), settings=SETTINGS) == []
