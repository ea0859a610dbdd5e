"""What all gates of a round share: the challenge, the models, and what is computed once about the clean image."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge, judge_for
from perturb.models.metrics import CleanSsim
from perturb.models.metrics_gpu import DeviceMetrics
from perturb.sandbox.pool import DecodePool, shared_pool
from perturb.sandbox.requirement import require_walls
from perturb.schemas.challenge import Challenge, Task
from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.schemas.verdict import EarlierAnswer

NOTHING_EARLIER: Mapping[str, EarlierAnswer] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class RoundContext:
    """One round: its task, its clean image as uint8 (height, width, 3), and what the gates decide with.

    `earlier` are the answers that other rounds accepted for the same photograph, by pixel identity.
    """

    round_id: str
    created_at: datetime
    task: Task
    clean: Pixels
    classifier: Classifier
    judge: Judge
    settings: ClassifierSettings
    pool: DecodePool
    earlier: Mapping[str, EarlierAnswer]

    @classmethod
    def of(
        cls,
        challenge: Challenge,
        *,
        classifier: Classifier,
        judge: Judge,
        settings: Settings,
        pool: DecodePool | None = None,
        earlier: Mapping[str, EarlierAnswer] = NOTHING_EARLIER,
        clean: Pixels | None = None,
    ) -> "RoundContext":
        """Return the context of a challenge. `pool` decodes; by default it is the process's shared one.

        `clean` is the challenge's image, where it is decoded already; else it is decoded here, because it is ours.

        Raises CorpusError when the challenge's own image is not what its task says, ModelError when the task was made
        with another classifier or names a label outside its classes.
        """
        require_walls(settings.decoder_walls)
        check_classifier(challenge.task, classifier)
        clean = _clean_pixels(challenge.png, challenge.task, clean)
        judge = judge_for(judge, num_classes=classifier.num_classes)
        return cls(
            round_id=challenge.round_id,
            created_at=challenge.created_at,
            task=challenge.task,
            clean=clean,
            classifier=classifier,
            judge=judge,
            settings=settings.classifier,
            pool=pool or shared_pool(),
            earlier=earlier,
        )

    @cached_property
    def ssim(self) -> CleanSsim:
        """SSIM against the clean image. Raises ValueError for an image below 11 x 11 pixels."""
        return CleanSsim(self.clean)

    @cached_property
    def device_metrics(self) -> DeviceMetrics | None:
        """The metrics on the classifier's GPU; None where it has none."""
        device = self.classifier.device
        return DeviceMetrics(self.clean, device) if device.type == "cuda" else None


def check_classifier(task: Task, classifier: Classifier) -> None:
    """Raise ModelError unless the classifier is the one that the task was made with."""
    if (task.classifier, task.classifier_sha256) != (classifier.name, classifier.sha256):
        raise ModelError(
            f"task {task.task_id} was made with {task.classifier} ({task.classifier_sha256[:12]}…), loaded is "
            f"{classifier.name} ({classifier.sha256[:12]}…); set classifier.name and classifier.weights to the task's"
        )
    if (task.height, task.width) != (classifier.height, classifier.width):
        raise ModelError(
            f"task {task.task_id} is {task.width}x{task.height}, {classifier.name} is set to "
            f"{classifier.width}x{classifier.height}; set classifier.input_size to the task's"
        )
    classifier.check_label(task.true_label)


def _clean_pixels(png: bytes, task: Task, clean: Pixels | None) -> Pixels:
    if clean is None:
        try:
            clean = read_png(png, height=task.height, width=task.width)
        except PngRefused as refused:
            raise CorpusError(f"the clean image of task {task.task_id} can't be decoded: {refused.detail}") from refused
    identity = pixel_identity(clean)
    if identity != task.original_sha256:
        raise CorpusError(
            f"the clean image of task {task.task_id} has the pixel identity {identity[:12]}…, "
            f"its task says {task.original_sha256[:12]}…; the image belongs to another task"
        )
    return clean
