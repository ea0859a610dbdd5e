"""Answers of a miner: the bytes that it sends for a task and its clean pixels, before a deadline."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Task
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels, encode_png

if TYPE_CHECKING:
    from perturb.miner.targets import TargetPool
    from perturb.models.classifier import Classifier

logger = logging.getLogger(__name__)

# (task, clean uint8 (height, width, 3), deadline on time.monotonic) -> the body to send.
Answer = Callable[[Task, Pixels, float], bytes]

# Share of the challenge's time that the attack may use; the rest is for the two transfers.
_TIME_SHARE = 0.7
# An attack may be as late as this before the log says so: the rest of the challenge's time covers it.
_LATE_SECONDS = 0.5


class Unanswerable(Exception):
    """A well-formed task that this miner cannot serve; the message tells the validator why."""


def attack_answer(name: str, targets: "TargetPool", *, budget_seconds: float) -> Answer:
    """Return the function that answers with attack `name` on the network that a task names.

    The attack has `budget_seconds`, or 70 % of the challenge's time where that is less. Raises SettingsError for an
    attack that cannot be used. The function raises Unanswerable for a task of a network that `targets` does not have,
    AttackError where the attack fails. It logs a warning for an answer that the validator
    will not accept because of its size of change or its time, and sends it all the same.
    """
    from perturb.attacks import load_attack
    from perturb.miner.masked_classifier import MaskedClassifier

    attack = load_attack(name)

    def answer(task: Task, clean: Pixels, deadline: float) -> bytes:
        try:
            classifier = targets.get(task.classifier, task.classifier_sha256)
        except ModelError as error:
            raise Unanswerable(str(error)) from error
        if (task.height, task.width) != (classifier.height, classifier.width):
            raise Unanswerable(f"{classifier.name} takes {classifier.width}x{classifier.height} pixels here")
        if any(not 0 <= other < classifier.num_classes for other in task.excluded_labels):
            raise Unanswerable(f"excluded_labels name classes that {classifier.name} does not have")
        seconds = min(budget_seconds, _TIME_SHARE * task.timeout_ms / 1000)
        target = cast("Classifier", MaskedClassifier(classifier, task.true_label, task.excluded_labels))
        ends = min(deadline, time.monotonic() + seconds)
        perturbed = attack(
            target,
            clean,
            task.true_label,
            task.bounds,
            deadline=ends,
            seed=int(task.task_id[:8], 16),
        )
        late = time.monotonic() - ends
        if late > _LATE_SECONDS:
            logger.warning("attack %r returned %.1f s after its deadline; a late answer is not used", name, late)
        if wrong := _outside_levels(perturbed, clean, task.bounds):
            logger.warning("attack %r returned an image that %s", name, wrong)
        return encode_png(perturbed)

    return answer


def _outside_levels(perturbed: Pixels, clean: Pixels, bounds: Bounds) -> str | None:
    """Return how the largest change breaks the bounds, or None."""
    levels = int(np.abs(perturbed.astype(np.int16) - clean).max())
    if bounds.min_levels <= levels <= bounds.max_levels:
        return None
    if levels == 0:
        return "is the clean one: nothing was changed"
    return (
        f"changes a value by {levels} levels; accepted: {bounds.min_levels} to {bounds.max_levels}. "
        "A large change can mean that channels or axes are in another order than in the clean image"
    )
