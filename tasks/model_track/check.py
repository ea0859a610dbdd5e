"""What a miner checks before validators do: whether its weights arrive, load and compute."""

import numpy as np

from perturb.models.classifier import load_classifier
from perturb.schemas.commitment import CommitmentRefused, Committed, ModelCommitment
from perturb.schemas.settings import Settings
from perturb.subnet.fetch import FetchRefused
from perturb.tasks.model_track.evaluate import fetch_committed
from perturb.tasks.model_track.isolated import CandidateRefused, Examination, Limits, measure_isolated
from perturb.tasks.targets.gates import sound
from perturb.tasks.targets.measure import HeldOut

_IMAGES = 4


def check_weights(settings: Settings, weights: bytes) -> str | None:
    """Return why validators of these settings would refuse a file of weights before they measure it, or None."""
    track = settings.model_track
    if len(weights) > track.max_bytes:
        return f"the file has {len(weights):,} bytes, at most {track.max_bytes:,} are accepted"
    first = load_classifier(settings.classifier)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (_IMAGES, first.height, first.width, 3), dtype=np.uint8)
    examination = Examination(settings.classifier, [HeldOut(image, 0) for image in images], attacked=0)
    try:
        card = measure_isolated(weights, examination, Limits(track.measure_seconds, track.memory_bytes))
    except CandidateRefused as refusal:
        return str(refusal)
    return sound(card)


def check_committed(settings: Settings, committed: Committed) -> str | None:
    """Return why validators would refuse the network of a commitment, or None."""
    try:
        commitment = ModelCommitment.parse(committed.text)
    except CommitmentRefused as refusal:
        return str(refusal)
    try:
        weights = fetch_committed(settings, commitment)
    except FetchRefused as refusal:
        return f"{commitment.u} cannot be fetched: {refusal}"
    if not commitment.is_of(weights, committed.hotkey):
        return f"the file at {commitment.u} is not what {committed.hotkey} committed to"
    return check_weights(settings, weights)
