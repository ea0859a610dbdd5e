"""The attacked network: any timm classifier, behind the pixel contract.

    classifier = load_classifier(settings.classifier)
    pixels = classifier.prepare(photo.pixels)          # uint8 (H, W, 3) at the network's own size
    logits = classifier.logits(pixels[None])           # float32 (1, C)

Between the pixels that travel and the network stands nothing but normalisation.
"""

import difflib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

import perturb.models._torchvision  # noqa: F401  # isort: skip
import timm
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

from perturb.models.batchnorm_folding import folded
from perturb.models.labels import NUM_CLASSES, imagenet_label
from perturb.models.weights import file_digest, load_file, state_digest, weights_file
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels
from perturb.schemas.settings import ClassifierSettings, WeightsSpec

Logits = npt.NDArray[np.float32]
# Batches gain nothing on a CPU; one image at a time, what a round says of an image is what it says of it alone, to
# the last bit. Larger chunks are padded to one shape for the same reason. (A 512x512 image has 2**18 pixels.)
_CUDA_CHUNK_PIXELS = 2**23


class Normalised(nn.Module):
    """float RGB (N, 3, H, W) in 0..1 -> logits (N, C); the normalisation of the training is inside."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of `images`; differentiable with respect to them, not to the weights."""
        logits: torch.Tensor = self.net((images - self.mean) / self.std)
        return logits


@dataclass(frozen=True, eq=False)
class Classifier:
    """A loaded network. `sha256` is that of the weights file's bytes; for `hub` and `random:SEED`, where there is
    no file of ours, that of the canonical state dict (`perturb.models.weights.state_digest`)."""

    name: str
    sha256: str
    height: int
    width: int
    num_classes: int
    module: Normalised
    device: torch.device
    batch_size: int
    _resize: Callable[[Image.Image], Image.Image] = field(repr=False)

    def prepare(self, pixels: Pixels) -> Pixels:
        """The network's view of a photograph: timm's eval resize and center crop, uint8 (H, W, 3)."""
        return np.array(self._resize(Image.fromarray(pixels)).convert("RGB"))

    def logits(self, pixels: Pixels) -> Logits:
        """float32 (N, C) of uint8 (N, H, W, 3), in chunks of `batch_size`.

        Raises ModelError when the network gives a number that is not finite, ValueError for another shape or dtype.
        """
        self._check(pixels)
        size = self.batch_size
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        chunks = list(self._threads.map(lambda part: self._forward(self._fast_module, part, torch.float32), parts))
        if not chunks:
            return np.zeros((0, self.num_classes), np.float32)
        return self._finite(np.concatenate(chunks))

    def exact_logits(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """float64 (N, C), one image at a time: agrees between devices and batch sizes to about 1e-12.

        Several times slower than `logits`; for the few answers that stand on a boundary.
        """
        self._check(pixels)
        rows = list(
            self._threads.map(
                lambda i: self._forward(self._exact_module, pixels[i : i + 1], torch.float64), range(len(pixels))
            )
        )
        if not rows:
            return np.zeros((0, self.num_classes), np.float64)
        return self._finite(np.concatenate(rows))

    def label_name(self, index: int) -> str:
        """English name of a class; `class N` where the network's classes are not ImageNet-1k's."""
        return imagenet_label(index).name if self.num_classes == NUM_CLASSES else f"class {index}"

    def synset(self, index: int) -> str | None:
        """WordNet id of a class, or None where the network's classes are not ImageNet-1k's."""
        return imagenet_label(index).synset if self.num_classes == NUM_CLASSES else None

    def check_label(self, index: int) -> int:
        """`index` itself. Raises ModelError when it is outside the network's classes."""
        if not 0 <= index < self.num_classes:
            raise ModelError(
                f"label {index} is outside the classes of {self.name}; accepted: 0 to {self.num_classes - 1}"
            )
        return index

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        # Images side by side, one thread each, beat threads inside the small convolutions of one image; and what an
        # image gives then doesn't depend on how many threads there are. A GPU takes one chunk after the other.
        count = torch.get_num_threads() if self.device.type == "cpu" else 1
        return ThreadPoolExecutor(
            count, thread_name_prefix="classifier", initializer=torch.set_num_threads, initargs=(1,)
        )

    @cached_property
    def _fast_module(self) -> nn.Module:
        return folded(self.module, height=self.height, width=self.width)

    @cached_property
    def _exact_module(self) -> nn.Module:
        return deepcopy(self.module).double()

    def _check(self, pixels: Pixels) -> None:
        expected = (self.height, self.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(
                f"{self.name} was given {pixels.dtype} of shape {pixels.shape}; accepted: uint8 of (N, *{expected})"
            )

    @torch.inference_mode()
    def _forward(self, module: nn.Module, pixels: Pixels, dtype: torch.dtype) -> npt.NDArray[Any]:
        # (N, H, W, 3) seen as (N, 3, H, W) is channels-last already: no copy but the one to floats.
        images = torch.from_numpy(np.require(pixels, requirements=("C", "W"))).to(self.device).permute(0, 3, 1, 2)
        count = len(images)
        if count < self.batch_size and dtype == torch.float32:
            images = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, self.batch_size - count))
            images = images.contiguous(memory_format=torch.channels_last)
        logits: npt.NDArray[Any] = module(images.to(dtype).div_(255))[:count].cpu().numpy()
        return logits

    def _finite(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.isfinite(logits).all():
            raise ModelError(
                f"classifier {self.name} gave a logit that is not a finite number; its weights ({self.sha256[:12]}…) "
                f"are damaged or not made for this network: check classifier.weights"
            )
        return logits


_loaded: dict[tuple[object, ...], Classifier] = {}
_loading = threading.Lock()


def load_classifier(settings: ClassifierSettings, *, name: str | None = None) -> Classifier:
    """The network that `settings` describes, loaded once a process; `name` asks for another one with its own weights.

    Raises ModelError for an unknown timm name, weights that are missing or don't fit, or an absent device.
    """
    wanted = settings if name is None or name == settings.name else _sibling(settings, name)
    key = (wanted.name, wanted.weights, wanted.device, wanted.batch_size, wanted.input_size)
    with _loading:
        if key not in _loaded:
            _loaded[key] = _load(wanted)
        return _loaded[key]


def _sibling(settings: ClassifierSettings, name: str) -> ClassifierSettings:
    # A local file belongs to one network; the other network's weights come from the Hub.
    weights = WeightsSpec("hub") if settings.weights.kind == "file" else settings.weights
    return settings.model_copy(update={"name": name, "weights": weights, "input_size": 0})


def _load(settings: ClassifierSettings) -> Classifier:
    device = _device(settings.device)
    net, digest = _network(settings)
    resolve: Any = resolve_data_config
    config = resolve(
        {"input_size": (3, settings.input_size, settings.input_size)} if settings.input_size else {}, model=net
    )
    channels, height, width = config["input_size"]
    own: dict[str, Any] = net.pretrained_cfg
    if channels != 3 or (own.get("fixed_input_size") and (height, width) != tuple(own["input_size"][1:])):
        raise ModelError(
            f"classifier {settings.name!r} can't take {channels} x {height} x {width} pixels; "
            f"leave classifier.input_size at 0, or choose a convolutional network for RGB images"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    module = Normalised(net, config["mean"], config["std"]).eval().requires_grad_(False)
    module = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chunk = 1 if device.type == "cpu" else max(1, _CUDA_CHUNK_PIXELS // (height * width))
    return Classifier(
        name=settings.name,
        sha256=digest,
        height=height,
        width=width,
        num_classes=int(net.num_classes),
        module=module,
        device=device,
        batch_size=settings.batch_size or chunk,
        _resize=_pixel_transform(config),
    )


def _network(settings: ClassifierSettings) -> tuple[Any, str]:
    if not timm.is_model(settings.name.split(".")[0]):
        near = difflib.get_close_matches(settings.name, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ModelError(f"classifier {settings.name!r} is not a timm model name (timm.list_models() has them){hint}")
    file = weights_file(settings.name, settings.weights)
    if settings.weights.kind == "hub":
        net = _from_hub(settings.name)
        return net, state_digest(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.weights.seed)
        net = timm.create_model(settings.name, pretrained=False)
    if file is None:
        return net, state_digest(net)
    load_file(net, file)
    return net, file_digest(file)


def _from_hub(name: str) -> Any:
    import httpx

    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            f"the pretrained weights of classifier {name!r} can't be had from the Hub "
            f"({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}); "
            f"accepted for classifier.weights: {WeightsSpec.ACCEPTED}"
        ) from error


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"classifier.device {wanted!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            f"use 'auto' or 'cpu'"
        )
    return torch.device(wanted)


def _pixel_transform(config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """timm's eval transform up to, and without, the step to tensors."""
    steps: list[Callable[[Image.Image], Image.Image]] = []
    for step in create_transform(**config, is_training=False).transforms:
        if type(step).__name__ in ("MaybeToTensor", "ToTensor", "PILToTensor", "MaybePILToTensor"):
            break
        steps.append(step)

    def resize(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return resize
