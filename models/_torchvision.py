"""Make `import torchvision` work beside a torch that its compiled part was not built for.

PyPI's torchvision is a CUDA build. Beside a CPU-only torch its extension can't be loaded, and the import then dies
on operators that the extension would have registered. timm needs none of those operators, only the transforms and
FrozenBatchNorm, so declaring the two schemas that are looked up at import is enough. Nothing is declared where
the extension loads. Import this module before timm or torchvision.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _extension_loads() -> bool:
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # Not installed: nothing to declare, and an import of it raises the usual ImportError.
    folder = Path(spec.origin).parent
    for extension in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError):
            continue
        return True
    return False


def _declare_missing() -> torch.library.Library | None:
    if _extension_loads():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    return library


# Held for the life of the process: a Library takes its operators along when it is collected.
DECLARED = _declare_missing()
