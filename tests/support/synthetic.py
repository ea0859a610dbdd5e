"""Rounds made without models or miners, for tests and benchmarks of the corpus alone.

Metrics are computed from the pixels; labels and logits are invented, so that no classifier would confirm them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import numpy as np

from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.outcome import Outcome
from perturb.schemas.response import Response
from perturb.schemas.verdict import Score, Verdict
from perturb.subnet.signing import sign_response
from tests.support.tasks import make_task

DAY = datetime(2026, 1, 31, 12, tzinfo=UTC)


@dataclass(frozen=True)
class SyntheticRound:
    """The arguments of `perturb.tasks.corpus.commit.commit_round`."""

    challenge: Challenge
    responses: list[Response]
    verdicts: list[Verdict]
    scores: list[Score]


@cache
def _photo(name: str) -> Pixels:
    from skimage import data

    pixels: Pixels = np.asarray(getattr(data, name)())[..., :3]
    return pixels


def clean_pixels(rng: np.random.Generator, side: int) -> Pixels:
    """A random crop of a photograph that scikit-image ships, uint8 (side, side, 3); side is at most 512."""
    photos = [photo for photo in map(_photo, ("astronaut", "coffee", "chelsea")) if min(photo.shape[:2]) >= side]
    photo = photos[rng.integers(len(photos))]
    top, left = (rng.integers(0, extent - side + 1) for extent in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


def perturb(rng: np.random.Generator, clean: Pixels, *, share: float = 0.5) -> Pixels:
    """Move a share of the channel values by one level up or down, as a good attack on the grid does."""
    step = rng.integers(0, 2, clean.shape, dtype=np.int16) * 2 - 1
    step[rng.random(clean.shape, dtype=np.float32) >= share] = 0
    pixels: Pixels = np.clip(clean.astype(np.int16) + step, 0, 255).astype(np.uint8)
    return pixels


def make_round(
    seed: int | Sequence[int],
    *,
    miners: int = 4,
    side: int = 64,
    refused: int = 1,
    created_at: datetime = DAY,
    validator: str | None = None,
) -> SyntheticRound:
    """One round, reproducible by its seed: `miners` accepted answers and `refused` more that do not flip.

    With the hotkey of a `validator`, miners have keys and sign their answers to it (sr25519 signatures are random).
    """
    rng = np.random.default_rng(seed)
    clean = clean_pixels(rng, side)
    task = make_task(
        clean,
        task_salt=rng.bytes(16).hex(),
        true_label=int(rng.integers(1000)),
        true_label_name="tench",
        classifier="synthetic",
        timeout_ms=10_000,
    )
    origin = Origin(
        source="sample",
        source_id=f"crop-{rng.integers(1 << 30)}",
        license="CC0-1.0",
        subject="fish",
        clean_confidence=float(rng.random()),
        clean_margin=float(rng.random() * 8),
        judge="none",
    )
    challenge = Challenge(
        round_id=f"{created_at:%Y%m%dT%H%M%S%f}Z-{rng.bytes(4).hex()}",
        created_at=created_at,
        task=task,
        origin=origin,
        png=encode_png(clean),
    )
    answers = [_answer(rng, clean, place, place < miners) for place in range(miners + refused)]
    if validator is not None:
        answers = [(_signed(response, task, validator), verdict, score) for response, verdict, score in answers]
    return SyntheticRound(challenge, *(list(part) for part in zip(*answers, strict=True)))


def _answer(rng: np.random.Generator, clean: Pixels, place: int, accepted: bool) -> tuple[Response, Verdict, Score]:
    pixels = perturb(rng, clean)
    body = encode_png(pixels)
    change = pixels.astype(np.float64) - clean
    mse = float(np.mean(change**2))
    verdict = Verdict(
        outcome=Outcome.ACCEPTED if accepted else Outcome.NO_FLIP,
        detail=None if accepted else "invented",
        perturbed_sha256=pixel_identity(pixels),
        linf=float(np.abs(change).max() / 255),
        linf_levels=int(np.abs(change).max()),
        l0=int(np.count_nonzero(change)),
        changed_share=np.count_nonzero(change) / change.size,
        l2=float(np.sqrt(np.sum(change**2)) / 255),
        rmse=mse**0.5 / 255,
        psnr=10 * float(np.log10(255**2 / mse)),
        ssim=float(0.98 + 0.02 * rng.random()),
        ssim_definition="invented",
        adversarial_label=int(rng.integers(1000)),
        adversarial_label_name="goldfish",
        adversarial_confidence=float(rng.random()),
        margin=float(rng.random() * 5),
        semantic_mismatch=True,
        hypernym_height=int(rng.integers(1, 19)),
    )
    response = Response(
        miner_uid=place,
        miner_hotkey=f"synthetic-{place:04d}",
        response_ms=float(rng.random() * 4000),
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
        nonce=str(rng.integers(1 << 40)),
    )
    quality, speed = (float(value) for value in rng.random(2))
    if not accepted:
        return response, verdict, Score(quality=0, speed=0, score=0, policy="synthetic-1")
    return (
        response,
        verdict,
        Score(quality=quality, speed=speed, score=0.7 * quality + 0.3 * speed, policy="synthetic-1"),
    )


def _signed(response: Response, task: Task, validator: str) -> Response:
    from bittensor.keyfiles import Keypair

    keypair = Keypair.create_from_uri(f"//Synthetic{response.miner_uid}")
    signature = sign_response(
        keypair,
        task_id=task.task_id,
        nonce=response.nonce or "",
        validator_hotkey=validator,
        status=200,
        body=response.body,
    )
    return replace(response, miner_hotkey=keypair.ss58_address, signature=signature)
