"""Taking a network into the registry: the configured one as the first generation, or a file of weights."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save

from perturb.models.class_names import read_class_names
from perturb.models.classifier import load_classifier
from perturb.models.weights import chosen_set
from perturb.schemas.errors import ModelError
from perturb.schemas.settings import Settings, WeightsSpec
from perturb.schemas.target import Target, target_name
from perturb.sinks.targets.registry import Registry, is_safetensors


def add_first_generation(registry: Registry, settings: Settings) -> Target:
    """Return the target of the configured classifier, which is entered where it is not in the registry yet.

    Its weights stay where the settings found them; those of a safetensors file are entered too.
    """
    own = load_classifier(settings.classifier)
    known = registry.by_digest(own.sha256)
    if known is not None:
        return known
    weights = settings.classifier.weights
    data = weights.path.expanduser().read_bytes() if weights.kind == "file" else None
    if data is not None and not is_safetensors(data):
        # Records name the digest of this file, which that of safetensors with the same tensors could not be.
        data = None
    target = Target(
        name=target_name(own.name, own.sha256),
        architecture=own.name,
        sha256=own.sha256,
        weights="registry" if data is not None else str(weights),
        input_size=own.height,
        classes=own.num_classes,
        generation=0,
        created_at=datetime.now(UTC),
    )
    registry.add(target, data)
    return target


def add_file(
    registry: Registry,
    settings: Settings,
    file: Path,
    *,
    architecture: str,
    name: str,
    parent: str | None = None,
    classes: Path | None = None,
    weights_set: str | None = None,
) -> Target:
    """Enter a file of weights: safetensors, or a state dict that torch saved, which is read without running code.

    `architecture` is a timm name. `classes` is a file with the name of a class in each line, where they are not
    ImageNet-1k's. `weights_set` chooses one of several state dicts in the file, such as `model_ema`. Raises ModelError
    that says what does not fit, and when the name is taken.
    """
    if not file.expanduser().is_file():
        raise ModelError(f"weights file {file} does not exist; accepted: safetensors, or .pth with weights only")
    names = read_class_names(classes) if classes else ()
    with chosen_set(file.expanduser(), weights_set) as chosen:
        changes = {"name": architecture, "weights": WeightsSpec("file", path=chosen), "input_size": 0}
        network = load_classifier(settings.classifier.model_copy(update=changes | {"class_names": names}))
    weights = as_safetensors(network.module.net.state_dict())
    target = Target(
        name=name,
        architecture=network.name,
        sha256=hashlib.sha256(weights).hexdigest(),
        input_size=network.height,
        classes=network.num_classes,
        class_names=names or None,
        parent=parent,
        created_at=datetime.now(UTC),
        recipe={"file": file.name} | ({"set": weights_set} if weights_set else {}),
    )
    registry.add(target, weights)
    return target


def add_state(
    registry: Registry, state: dict[str, torch.Tensor], *, of: Target, name: str, recipe: dict[str, object]
) -> Target:
    """Enter a state dict that was trained from the target `of`. Raises ModelError when the name is taken."""
    weights = as_safetensors(state)
    changes = {
        "name": name,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "weights": "registry",
        "parent": of.name,
        "generation": None if of.generation is None else of.generation + 1,
        "created_at": datetime.now(UTC),
        "recipe": recipe,
        "report": None,
    }
    target = Target.model_validate(of.model_dump() | changes)
    registry.add(target, weights)
    return target


def as_safetensors(state: dict[str, torch.Tensor]) -> bytes:
    """Return a state dict as a file, the same bytes for the same tensors."""
    return save({key: tensor.detach().cpu().contiguous() for key, tensor in sorted(state.items())})
