"""Answers of a miner: the bytes that it sends for a task and its clean pixels, before a deadline."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from perturb.schemas.challenge import Task
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import ClassifierSettings

if TYPE_CHECKING:
    from perturb.models.classifier import Classifier

# (task, clean uint8 (height, width, 3), deadline on time.monotonic) -> the body to send.
Answer = Callable[[Task, Pixels, float], bytes]

# Share of the challenge's time that the attack may use; the rest is for the two transfers.
_TIME_SHARE = 0.7


class Unanswerable(Exception):
    """A well-formed task that this miner cannot serve; the message tells the validator why."""


def attack_answer(name: str, classifier_settings: ClassifierSettings, *, budget_seconds: float) -> Answer:
    """Return the function that answers with attack `name` on the classifier of the settings, which is loaded here.

    The attack has `budget_seconds`, or 70 % of the challenge's time where that is less. Raises SettingsError for an
    unknown attack, ModelError for a classifier that cannot be loaded.
    """
    from perturb.attacks import load_attack
    from perturb.miner.masked_classifier import MaskedClassifier
    from perturb.models.classifier import load_classifier

    attack = load_attack(name)
    classifier = load_classifier(classifier_settings)

    def answer(task: Task, clean: Pixels, deadline: float) -> bytes:
        if (task.classifier, task.classifier_sha256) != (classifier.name, classifier.sha256):
            raise Unanswerable(
                f"this miner attacks {classifier.name} with weights {classifier.sha256[:12]}, "
                f"not {task.classifier[:64]} with {task.classifier_sha256[:12]}"
            )
        if any(not 0 <= other < classifier.num_classes for other in task.excluded_labels):
            raise Unanswerable(f"excluded_labels name classes that {classifier.name} does not have")
        seconds = min(budget_seconds, _TIME_SHARE * task.timeout_ms / 1000)
        target = cast("Classifier", MaskedClassifier(classifier, task.true_label, task.excluded_labels))
        perturbed = attack(
            target,
            clean,
            task.true_label,
            task.bounds,
            deadline=min(deadline, time.monotonic() + seconds),
            seed=int(task.task_id[:8], 16),
        )
        return encode_png(perturbed)

    return answer
