"""The network that a certificate is about: a timm network, any torch module, or an ONNX file.

    subject = load_subject("tf_efficientnet_lite0", settings.classifier)
    subject.classifier.logits(pixels)       # float32 (N, C) of uint8 (N, H, W, 3)
    subject.description                     # what a plan fixes: names, digests, preprocessing

A spec is a timm name (`resnet18`), a timm name with a file of weights (`resnet18=weights.safetensors`), a function that
returns a torch module (`my_package:network`), or a file that ends in `.onnx`.
"""

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from perturb.models.class_names import read_class_names
from perturb.models.classifier import Classifier, Normalised, load_classifier, pixel_transform
from perturb.models.weights import file_digest, state_digest
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import ModelError, SettingsError
from perturb.schemas.imagenet import NUM_CLASSES
from perturb.schemas.settings import ClassifierSettings, WeightsSpec

ACCEPTED = (
    "target:NAME of the registry, a timm name, a timm name with a file of weights (resnet18=weights.safetensors), "
    "module:function that returns a torch module, or a file FILE.onnx"
)


class SubjectDescription(BaseModel):
    """What a plan fixes of its subject. Decimal numbers are strings, so that no float stands in a signed document.

    `architecture` is timm's name of a timm network, under which a file of weights is loaded; a target of the registry
    has a `name` of its own beside it. `sha256` is the digest of the weights. `code_sha256` is that of the source file
    of a torch module's function. With `access` "scores" no gradient is available, so only attacks that use scores run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["timm", "torch", "onnx"]
    architecture: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code_sha256: str | None = None
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    num_classes: int = Field(ge=2)
    mean: tuple[str, str, str]
    std: tuple[str, str, str]
    classes: Literal["imagenet-1k", "file", "numbers"]
    class_names_sha256: str
    access: Literal["gradients", "scores"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded subject, and the names of its classes in the order of its logits."""

    classifier: Classifier
    description: SubjectDescription
    class_names: tuple[str, ...]

    @property
    def is_imagenet(self) -> bool:
        """Whether the classes are ImageNet-1k's, so that judge and WordNet know them."""
        return self.description.classes == "imagenet-1k"


@dataclass(frozen=True)
class TorchNetwork:
    """What the function of a `module:function` spec returns.

    `module` takes float (N, 3, height, width), normalised by `mean` and `std`, and returns logits (N, C).
    """

    module: nn.Module
    height: int
    width: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    class_names: Sequence[str] = ()


def load_subject(spec: str, settings: ClassifierSettings, *, classes: Path | None = None) -> Subject:
    """Return the subject that `spec` names; `classes` is a file with the name of a class in each line.

    Raises ModelError or SettingsError, with what is accepted, for an unknown spec, weights that don't fit, and a file
    of classes with another number of names than the network has classes.
    """
    names = read_class_names(classes) if classes else ()
    if spec.endswith(".onnx"):
        from perturb.certificates.onnx_classifier import load_onnx

        return _described(load_onnx(Path(spec)), "onnx", names)
    if ":" in spec and "=" not in spec:
        return _torch_subject(spec, names)
    name, _, file = spec.partition("=")
    if file:
        weights = WeightsSpec("file", path=Path(file))
        settings = settings.model_copy(update={"name": name, "weights": weights, "input_size": 0})
    classifier = load_classifier(settings, name=name)
    return _described(classifier, "timm", names)


def _torch_subject(spec: str, names: tuple[str, ...]) -> Subject:
    place, _, function = spec.partition(":")
    if "/" in place or place.endswith(".py"):
        raise SettingsError(f"subject {spec!r} names a file; accepted: {ACCEPTED} (modules are found on PYTHONPATH)")
    try:
        made = getattr(import_module(place), function)
        network = made()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"subject {spec!r} can't be loaded: {error}; accepted: {ACCEPTED}") from error
    if not isinstance(network, TorchNetwork):
        raise SettingsError(
            f"subject {spec!r} returned {type(network).__name__}; accepted: perturb.certificates.subject.TorchNetwork"
        )
    source = inspect.getsourcefile(made)
    code = file_digest(Path(source)) if source else None
    classifier = torch_classifier(spec, network)
    return _described(classifier, "torch", tuple(network.class_names) or names, code_sha256=code)


def torch_classifier(name: str, network: TorchNetwork, *, sha256: str | None = None) -> Classifier:
    """Return a torch network as a `Classifier`. Raises ModelError where its output is not one row of logits."""
    module = Normalised(network.module, network.mean, network.std).eval().requires_grad_(False)
    with torch.no_grad():
        shape = tuple(module(torch.zeros(1, 3, network.height, network.width)).shape)
    if len(shape) != 2 or shape[1] < 2:
        raise ModelError(
            f"subject {name} returned a tensor of shape {shape}; accepted: logits (N, C) of 2 or more classes"
        )
    config = {
        "input_size": (3, network.height, network.width),
        "interpolation": "bicubic",
        "mean": network.mean,
        "std": network.std,
        "crop_pct": 0.875,
    }
    return Classifier(
        name=name,
        sha256=sha256 or state_digest(network.module),
        height=network.height,
        width=network.width,
        num_classes=shape[1],
        module=module,
        device=torch.device("cpu"),
        batch_size=1,
        _resize=pixel_transform(config),
    )


def _described(
    classifier: Classifier,
    kind: Literal["timm", "torch", "onnx"],
    names: tuple[str, ...],
    *,
    code_sha256: str | None = None,
) -> Subject:
    count = classifier.num_classes
    if names and len(names) != count:
        raise SettingsError(f"--classes has {len(names)} names, the subject {classifier.name} has {count} classes")
    names = names or classifier.class_names
    imagenet = not names and count == NUM_CLASSES
    shown = names or tuple(classifier.label_name(index) for index in range(count))
    description = SubjectDescription(
        name=Path(classifier.name).name if kind == "onnx" else classifier.name,
        kind=kind,
        architecture=classifier.name if kind == "timm" else None,
        sha256=classifier.sha256,
        code_sha256=code_sha256,
        height=classifier.height,
        width=classifier.width,
        num_classes=count,
        mean=_decimals(classifier.module.mean),
        std=_decimals(classifier.module.std),
        classes="imagenet-1k" if imagenet else "file" if names else "numbers",
        class_names_sha256=hashlib.sha256(canonical_json(list(shown))).hexdigest(),
        access="scores" if kind == "onnx" else "gradients",
    )
    return Subject(classifier, description, shown)


def _decimals(values: torch.Tensor) -> Any:
    return tuple(str(Decimal(repr(round(float(value), 6))).normalize()) for value in values.flatten())
