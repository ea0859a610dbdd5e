"""A record is proven from bytes, and each column that was changed is named."""

from typing import Any

import numpy as np
import pytest

from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import ModelError
from perturb.schemas.image import encode_png
from perturb.schemas.pair import Pair
from perturb.schemas.record import Record
from perturb.tasks.verify.reverify import refusal_faults, reverify, reverify_pairs
from tests.support.judged_records import records
from tests.support.verification_rounds import SETTINGS, challenge, classifier, clean, flipped, label, thinned

EXTRAS = SETTINGS.model_copy(
    update={
        "classifier": SETTINGS.classifier.model_copy(
            update={"persistence": True, "transfer": ("tf_efficientnet_lite2",)}
        )
    }
)


@pytest.fixture(scope="module")
def made() -> tuple[Challenge, bytes, Record]:
    asked, body = challenge(), encode_png(flipped())
    # In company, so that the record was made in another batch than the one it is proven in.
    record, _ = records(asked, [body, encode_png(thinned(flipped(), 0.9))], settings=EXTRAS)
    return asked, body, record


def faults(row: Any, clean_png: bytes, body: bytes | None, **options: Any) -> list[str]:
    return reverify(row, clean_png, body, classifier=classifier(), settings=SETTINGS, **options)


def test_a_sound_record_holds(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    assert record.outcome == "accepted"
    assert faults(record, asked.png, body, extras=True) == []
    assert faults(record.model_dump(), asked.png, body) == []
    assert faults(record, asked.png, body, judge=NoJudge()) == []


CHANGES: dict[str, Any] = {
    "record_id": "0" * 32,
    "true_label": 7,
    "true_label_name": "hen",
    "synset": "n00000000",
    "true_class": 7,
    "clean_confidence": 0.5,
    "clean_margin": 1.5,
    "body_sha256": "0" * 64,
    "adversarial_label": 8,
    "adversarial_label_name": "hen",
    "adversarial_confidence": 0.123,
    "margin": 2.0,
    "linf": 2 / 255,
    "linf_levels": 2,
    "l0": 17,
    "l0_pixels": 17,
    "l2": 0.5,
    "rmse": 0.001,
    "psnr": 60.0,
    "ssim": 0.9999,
    "ssim_definition": "mine",
    "quality": 0.99,
    "speed": 0.5,
    "score": 0.99,
    "policy": "public-1",
    "original_sha256": "0" * 64,
    "perturbed_sha256": "0" * 64,
    "semantic_mismatch": False,
    "epsilon_min": 2 / 255,
    "min_psnr": 90.0,
    "min_ssim": 0.9999,
    "timeout_ms": 200,
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_changed_field_is_found(made: tuple[Challenge, bytes, Record], name: str) -> None:
    asked, body, record = made
    changed = record.model_copy(update={name: CHANGES[name]})
    assert getattr(record, name) != CHANGES[name]
    assert faults(changed, asked.png, body), name


def test_the_field_is_named_with_both_values(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    (fault,) = faults(record.model_copy(update={"l0_pixels": 17}), asked.png, body)
    assert fault == f"l0_pixels: recorded 17, recomputed {record.l0_pixels}"


def test_extras_are_found(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    assert record.persists is not None
    assert record.transfer
    other = record.persists.model_copy(update={"jpeg75": not record.persists.jpeg75})
    moved = (record.transfer[0].model_copy(update={"margin": record.transfer[0].margin + 1}),)
    for changes in ({"persists": other}, {"transfer": moved}):
        (fault,) = faults(record.model_copy(update=changes), asked.png, body, extras=True)
        assert fault.startswith(next(iter(changes)))


def test_one_changed_byte_of_either_image(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    for at in (0, 30, len(body) // 2, len(body) - 2):
        assert any(fault.startswith("body_sha256") for fault in faults(record, asked.png, changed(body, at)))
    for at in (0, 30, len(asked.png) // 2, len(asked.png) - 2):
        assert any(fault.startswith("original image") for fault in faults(record, changed(asked.png, at), body))


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_another_image_in_its_place(made: tuple[Challenge, bytes, Record]) -> None:
    asked, _, record = made
    found = faults(record, asked.png, encode_png(thinned(flipped(), 0.9)))
    assert {fault.split(":")[0] for fault in found} >= {"body_sha256", "perturbed_sha256", "l0", "rmse", "quality"}
    assert faults(record, asked.png, None) == ["perturbed image: missing, though the record is accepted"]


def test_refused_rows_must_fit_together() -> None:
    asked = challenge()
    far = flipped().copy()
    far[:20] ^= 64
    unflipped = thinned(flipped(), 0.01)
    large, still, again = records(asked, [encode_png(far), encode_png(unflipped), encode_png(far)])
    assert [row.outcome for row in (large, still, again)] == ["linf_too_large", "no_flip", "duplicate"]
    for row in (large, still, again):
        assert faults(row, asked.png, None) == []
        assert faults(row.model_copy(update={"score": 0.5}), asked.png, None)
        assert faults(row.model_copy(update={"perturbed_sha256": "0" * 64}), asked.png, None)
    for changes in ({"linf_levels": 3}, {"l2": 0.1}, {"psnr": 55.0}, {"rmse": 0.001}, {"l0": 1}, {"linf": 0.5}):
        assert faults(large.model_copy(update=changes), asked.png, None), changes
    assert faults(still.model_copy(update={"outcome": "linf_too_large"}), asked.png, None)
    assert faults(again.model_copy(update={"duplicate_of": None}), asked.png, None)


def test_rows_of_refused_answers_meet_the_gates_that_refused_them() -> None:
    def noise(levels: int) -> bytes:
        change = np.random.default_rng(0).integers(-levels, levels + 1, clean().shape)
        return encode_png(np.clip(clean().astype(np.int16) + change, 0, 255).astype(np.uint8))

    loud, rough = records(challenge(), [noise(8), noise(4)])
    assert [row.outcome for row in (loud, rough)] == ["psnr_too_low", "ssim_too_low"]
    assert refusal_faults(loud) == refusal_faults(rough) == []
    for row, changes, decided in (
        (loud, {"outcome": "ssim_too_low"}, "psnr_too_low"),
        (loud, {"min_psnr": 20.0}, "the outcome of a later gate"),
        (rough, {"outcome": "no_flip"}, "ssim_too_low"),
        (rough, {"ssim": 0.99}, "the outcome of a later gate"),
    ):
        (fault,) = refusal_faults(row.model_copy(update=changes))
        assert fault.startswith("outcome: recorded ")
        assert decided in fault.partition("recomputed")[2]


def test_figures_without_sense_are_faults_and_not_errors() -> None:
    (row,) = records(challenge(), [encode_png(clean())])
    assert row.outcome == "unchanged"
    for changes in ({"rmse": float("inf")}, {"rmse": float("nan")}, {"epsilon": -1.0}, {"task_id": "none"}):
        assert refusal_faults(row.model_copy(update=changes)), changes
    assert refusal_faults({"record_id": "0"})


def test_another_classifier_proves_nothing(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    with pytest.raises(ModelError, match="was made with"):
        faults(record.model_copy(update={"classifier_sha256": "0" * 64}), asked.png, body)


@pytest.mark.parametrize("configured", ["tf_efficientnet_lite2", "tf_efficientnet_lite0"])
def test_a_record_is_verified_with_its_own_classifier_at_its_own_size(
    made: tuple[Challenge, bytes, Record], configured: str
) -> None:
    """The operator has set another classifier since, or another input size."""
    asked, body, record = made
    now = SETTINGS.model_copy(
        update={"classifier": SETTINGS.classifier.model_copy(update={"name": configured, "input_size": 0})}
    )
    pair = Pair(asked.png, body, record.model_dump())
    assert reverify_pairs([pair], classifier=load_classifier(now.classifier), settings=now) == [None]


def test_pairs_of_a_shard(made: tuple[Challenge, bytes, Record]) -> None:
    asked, body, record = made
    wrong = record.model_copy(update={"adversarial_label": label(), "psnr": 1.0})
    pairs = [Pair(asked.png, body, row.model_dump()) for row in (record, wrong)]
    sound, fault = reverify_pairs(pairs, classifier=classifier(), settings=SETTINGS)
    assert sound is None
    assert fault is not None
    assert "adversarial_label" in fault
    assert "psnr" in fault
