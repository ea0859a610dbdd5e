"""Weights of targets as files of this machine, by digest: each is read from its registry once."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from perturb.schemas.errors import ModelError
from perturb.schemas.settings import ClassifierSettings, WeightsSpec
from perturb.schemas.target import Target
from perturb.sinks.report.replace_file import replace_file

# Files whose digest was compared in this process.
_compared: set[Path] = set()


def cached_weights(cache: Path, target: Target, read: Callable[[Target], bytes]) -> Path:
    """Return a file below `cache` with the weights of a target. `read` is called where it is missing or changed.

    Raises ModelError where what `read` returns is not what the target's card names, and what `read` raises.
    """
    path = cache.expanduser() / "targets" / f"{target.sha256}.safetensors"
    if path.is_file() and (path in _compared or _digest(path.read_bytes()) == target.sha256):
        _compared.add(path)
        return path
    data = read(target)
    if _digest(data) != target.sha256:
        raise ModelError(f"the weights of target {target.name!r} are not those of its card (sha256 {target.sha256})")
    replace_file(path, data)
    return path


def as_classifier(target: Target, own: ClassifierSettings, weights: WeightsSpec) -> ClassifierSettings:
    """Return the settings with which a target is loaded as the classifier; device and batch size are those of `own`."""
    changes = {"name": target.architecture, "weights": weights, "input_size": target.input_size}
    changes |= {"class_names": target.class_names or ()}
    return own.model_copy(update=changes)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
