"""An ONNX file as a classifier, run by onnxruntime. It gives scores only: there is no gradient to attack with."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from perturb.models.classifier import Classifier, Logits, Normalised, pixel_transform
from perturb.models.weights import file_digest
from perturb.schemas.errors import ModelError, SettingsError
from perturb.schemas.image import Pixels


class _OnnxNetwork(nn.Module):
    """An onnxruntime session as a module: float32 (1, 3, H, W) -> logits (1, C), without gradients."""

    def __init__(self, session: Any, name: str):
        super().__init__()
        self._session, self._name = session, name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, one image at a time."""
        rows = [
            self._session.run(None, {self._name: image[None].detach().float().numpy()})[0] for image in images.cpu()
        ]
        return torch.from_numpy(np.concatenate(rows).astype(np.float32))


class OnnxClassifier(Classifier):
    """A `Classifier` whose exact logits are onnxruntime's own, in single precision: there are no others."""

    def logits(self, pixels: Pixels) -> Logits:
        """Return the logits, float32 (N, C), of uint8 (N, H, W, 3), one image at a time."""
        self._check(pixels)
        images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
        if not len(images):
            return np.zeros((0, self.num_classes), np.float32)
        return self._finite(self.module(images).numpy())

    def exact_logits(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """Return the same logits as float64."""
        return self.logits(pixels).astype(np.float64)


def load_onnx(path: Path, *, mean: float = 0.0, std: float = 1.0) -> Classifier:
    """Return an ONNX file as a classifier. Its input is float32 RGB (N, 3, H, W) in 0..1, its output logits (N, C).

    Raises SettingsError where onnxruntime is not installed or the file is not there, ModelError for another input.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError(
            f"subject {path}: onnxruntime is not installed; run `pip install 'perturb[onnx]'`"
        ) from error
    if not path.is_file():
        raise SettingsError(f"subject {path}: there is no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(
            f"subject {path} can't be loaded by onnxruntime: {str(error).splitlines()[0][:200]}"
        ) from error
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
        raise ModelError(
            f"subject {path} has inputs {[(one.name, one.shape) for one in inputs]}; accepted: one input, float32 "
            "(N, 3, height, width) with a fixed height and width"
        )
    height, width = shape[2:]
    module = Normalised(_OnnxNetwork(session, inputs[0].name), (mean,) * 3, (std,) * 3).eval()
    found = module(torch.zeros(1, 3, height, width))
    if found.ndim != 2 or found.shape[1] < 2:
        raise ModelError(f"subject {path} gave a tensor of shape {tuple(found.shape)}; accepted: logits (N, C)")
    config = {"input_size": (3, height, width), "interpolation": "bicubic", "mean": (0,) * 3, "std": (1,) * 3}
    return OnnxClassifier(
        name=str(path),
        sha256=file_digest(path),
        height=height,
        width=width,
        num_classes=int(found.shape[1]),
        module=module,
        device=torch.device("cpu"),
        batch_size=1,
        _resize=pixel_transform({**config, "crop_pct": 0.875}),
    )
