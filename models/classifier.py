"""The attacked network: any timm classifier, on uint8 RGB pixels of its own size.

    classifier = load_classifier(settings.classifier)
    pixels = classifier.prepare(photo.pixels)          # uint8 (H, W, 3) at the network's own size
    logits = classifier.logits(pixels[None])           # float32 (1, C)

Only normalisation stands between these pixels and the network.
"""

import difflib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

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
from perturb.models.labels import imagenet_label
from perturb.models.weights import file_digest, load_file, state_digest, weights_file
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import ClassifierSettings, WeightsSpec

Logits = npt.NDArray[np.float32]
# Batches are not faster on a CPU, and one image at a time gives the same bits in a round as alone. On a GPU, chunks are
# padded to one shape for the same reason. (A 512x512 image has 2**18 pixels.)
_CUDA_CHUNK_PIXELS = 2**23


class Normalised(nn.Module):
    """The network with the normalisation of its training: float RGB (N, 3, H, W) in 0..1 -> logits (N, C)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of `images`; differentiable with respect to the images, not to the weights."""
        logits: torch.Tensor = self.net((images - self.mean) / self.std)
        return logits


@dataclass(frozen=True, eq=False)
class Classifier:
    """A loaded network.

    `sha256` is that of the weights file. For `hub` and `random:SEED`, which have no such file, it is that of the
    canonical state dict (`perturb.models.weights.state_digest`).
    """

    name: str
    sha256: str
    height: int
    width: int
    num_classes: int
    module: Normalised
    device: torch.device
    batch_size: int
    _resize: Callable[[Image.Image], Image.Image] = field(repr=False)
    class_names: tuple[str, ...] = ()

    def prepare(self, pixels: Pixels) -> Pixels:
        """Return a photograph as the network sees it: timm's eval resize and center crop, uint8 (H, W, 3)."""
        return np.array(self._resize(Image.fromarray(pixels)).convert("RGB"))

    def logits(self, pixels: Pixels) -> Logits:
        """Return the logits, float32 (N, C), of uint8 (N, H, W, 3), in chunks of `batch_size`.

        Raises ModelError when a logit is not finite, ValueError for another shape or dtype.
        """
        self._check(pixels)
        size = self.batch_size
        parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        chunks = list(self._threads.map(lambda part: self._forward(self._fast_module, part, torch.float32), parts))
        if not chunks:
            return np.zeros((0, self.num_classes), np.float32)
        return self._finite(np.concatenate(chunks))

    def exact_logits(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """Return the logits, float64 (N, C), one image at a time; devices and batch sizes agree to about 1e-12.

        Several times slower than `logits`: for the few answers near a boundary.
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
        """Return the English name of a class; `class N` of other classes than ImageNet-1k's without names."""
        if self.class_names:
            return self.class_names[index]
        return imagenet_label(index).name if self.num_classes == NUM_CLASSES else f"class {index}"

    def synset(self, index: int) -> str | None:
        """Return the WordNet ID of a class, or None where the network's classes are not ImageNet-1k's."""
        own = self.class_names or self.num_classes != NUM_CLASSES
        return None if own else imagenet_label(index).synset

    def check_label(self, index: int) -> int:
        """Return `index`. Raises ModelError when it is outside the network's classes."""
        if not 0 <= index < self.num_classes:
            raise ModelError(
                f"label {index} is outside the classes of {self.name}; accepted: 0 to {self.num_classes - 1}"
            )
        return index

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        # One thread for each image is faster than threads inside the small convolutions of one image, and the result
        # does not depend on the number of threads. A GPU takes one chunk after the other.
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
                f"are damaged or belong to another network: check classifier.weights"
            )
        return logits


_loading = threading.Lock()


def load_classifier(settings: ClassifierSettings, *, name: str | None = None, input_size: int = 0) -> Classifier:
    """Return the network that `settings` describes; a process keeps the last eight that it loaded.

    `name` chooses another network, with weights and an input size of its own; `input_size` (pixels) replaces the size,
    where it is not 0. Raises ModelError for an unknown timm name, weights that
    are missing or do not fit, or an absent device.
    """
    wanted = settings if name is None or name == settings.name else _sibling(settings, name)
    with _loading:  # Two threads that come first at once must not both load it.
        size = input_size or wanted.input_size
        return _load(wanted.name, wanted.weights, wanted.device, wanted.batch_size, size, wanted.class_names)


def _sibling(settings: ClassifierSettings, name: str) -> ClassifierSettings:
    # A local file belongs to one network; the other network's weights come from the Hub.
    weights = WeightsSpec("hub") if settings.weights.kind == "file" else settings.weights
    return settings.model_copy(update={"name": name, "weights": weights, "input_size": 0, "class_names": ()})


# A miner or an auditor meets one network after the other in the years of a corpus.
@functools.lru_cache(maxsize=8)
def _load(
    name: str, weights: WeightsSpec, device_name: str, batch_size: int, input_size: int, class_names: tuple[str, ...]
) -> Classifier:
    device = _device(device_name)
    net, digest = _network(name, weights, class_names)
    resolve: Any = resolve_data_config
    config = resolve({"input_size": (3, input_size, input_size)} if input_size else {}, model=net)
    channels, height, width = config["input_size"]
    own = cast(dict[str, Any], net.pretrained_cfg)
    if channels != 3 or (own.get("fixed_input_size") and (height, width) != tuple(own["input_size"][1:])):
        raise ModelError(
            f"classifier {name!r} can't take {channels} x {height} x {width} pixels; "
            f"leave classifier.input_size at 0, or choose a convolutional network for RGB images"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    module = Normalised(net, config["mean"], config["std"]).eval().requires_grad_(False)
    module = module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chunk = 1 if device.type == "cpu" else max(1, _CUDA_CHUNK_PIXELS // (height * width))
    return Classifier(
        name=name,
        sha256=digest,
        height=height,
        width=width,
        num_classes=int(cast(int, net.num_classes)),
        module=module,
        device=device,
        batch_size=batch_size or chunk,
        class_names=class_names,
        _resize=pixel_transform(config),
    )


def _network(name: str, weights: WeightsSpec, class_names: tuple[str, ...]) -> tuple[nn.Module, str]:
    """The timm model with its weights, and the digest of the weights."""
    if class_names and weights.kind == "hub":
        raise ModelError(
            f"classifier.class_names has {len(class_names)} names, but networks of the Hub (classifier.weights) have "
            "classes of their own; name a file of weights"
        )
    if not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ModelError(f"classifier.name {name!r} is not a timm model name (timm.list_models() has them){hint}")
    file = weights_file(name, weights)
    if weights.kind == "hub":
        net = _from_hub(name)
        return net, state_digest(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        options: dict[str, Any] = {"num_classes": len(class_names)} if class_names else {}
        try:
            net = timm.create_model(name, pretrained=False, **options)
        except RuntimeError as error:
            raise ModelError(f"classifier.name {name!r} is not a timm model: {error}") from error
    if file is None:
        return net, state_digest(net)
    # The packages ship the files of another implementation, with other names in the same order.
    load_file(net, file, by_order=weights.kind == "package")
    return net, file_digest(file)


def _from_hub(name: str) -> nn.Module:
    import httpx

    try:
        return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise ModelError(
            f"the pretrained weights of classifier {name!r} cannot be fetched from the Hub "
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


def pixel_transform(config: dict[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """timm's eval transform without the step to tensors and those after it."""
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
