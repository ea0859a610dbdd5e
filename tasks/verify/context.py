"""What all gates of a round share: the challenge, the models, and what is computed once about the clean image."""

from dataclasses import dataclass
from functools import cached_property

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import Judge, judge_for
from perturb.models.metrics import CleanSsim
from perturb.models.metrics_gpu import DeviceMetrics
from perturb.schemas.challenge import Challenge, Task
from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.tasks.verify.sandbox import DecodePool, shared_pool


@dataclass(frozen=True, eq=False)
class RoundContext:
    """One round: its task, its clean image as uint8 (height, width, 3), and what the gates decide with."""

    task: Task
    clean: Pixels
    classifier: Classifier
    judge: Judge
    settings: ClassifierSettings
    pool: DecodePool

    @classmethod
    def of(
        cls,
        challenge: Challenge,
        *,
        classifier: Classifier,
        judge: Judge,
        settings: Settings,
        pool: DecodePool | None = None,
    ) -> "RoundContext":
        """Return the context of a challenge. `pool` decodes; by default it is the process's shared one.

        Raises CorpusError when the challenge's own image is not what its task says, ModelError when the task was made
        with another classifier or names a label outside its classes.
        """
        check_classifier(challenge.task, classifier)
        clean = _clean_pixels(challenge.png, challenge.task)
        judge = judge_for(judge, num_classes=classifier.num_classes)
        return cls(challenge.task, clean, classifier, judge, settings.classifier, pool or shared_pool())

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


def _clean_pixels(png: bytes, task: Task) -> Pixels:
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
