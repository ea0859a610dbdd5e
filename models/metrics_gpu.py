"""The metrics of `perturb.models.metrics` for many images at once on a GPU (or any torch device): same definitions,
same bits for the integers, SSIM in float32 within 1e-7 of its exact value.

The images of a round are uploaded once. A few numbers for each image come back.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from perturb.models.metrics import C1, C2, MARGIN, Distances, clean_moments, gaussian
from perturb.schemas.image import Pixels

# Images on the device at a time: SSIM's temporaries take about 60 bytes a channel value.
_CHUNK_VALUES = 2**25


class DeviceMetrics:
    """Integer distances and SSIM against one clean image (uint8 (height, width, 3)) on `device`."""

    def __init__(self, clean: Pixels, device: torch.device):
        self._device = device
        self._clean = torch.from_numpy(clean.copy()).to(device)
        self._chunk = max(1, _CHUNK_VALUES // clean.size)
        centred, mean, variance = (self._planes(moment) for moment in clean_moments(clean))
        self._twice_centred = 2 * centred
        inside = slice(MARGIN, -MARGIN)
        mean, variance = mean[..., inside, inside], variance[..., inside, inside]
        self._twice_mean_centred = 2 * mean
        self._twice_mean = 2 * (mean + 128)
        self._luminance = 2 * (mean + 128) ** 2 + C1
        self._contrast = 2 * variance + C2
        weights = torch.from_numpy(gaussian()).to(device, torch.float32)
        self._rows = weights.view(1, 1, -1, 1).repeat(3, 1, 1, 1)
        self._columns = weights.view(1, 1, 1, -1).repeat(3, 1, 1, 1)

    def distances(self, images: Sequence[Pixels]) -> list[Distances]:
        """Return the same integers as `perturb.models.metrics.distances`, for each image."""
        found: list[Distances] = []
        for chunk in self._uploaded(images):
            # int16 holds every difference, int64 every sum: nothing is rounded.
            delta = (chunk.to(torch.int16) - self._clean.to(torch.int16)).abs_()
            columns = (
                delta.amax(dim=(1, 2, 3)),
                delta.ne(0).sum(dim=(1, 2, 3)),
                delta.amax(dim=3).ne(0).sum(dim=(1, 2)),
                delta.to(torch.int32).square_().sum(dim=(1, 2, 3), dtype=torch.int64),
            )
            rows = torch.stack([column.to(torch.int64) for column in columns], dim=1).tolist()
            found += [Distances(self._clean.numel(), linf, l0, pixels, squares) for linf, l0, pixels, squares in rows]
        return found

    @torch.inference_mode()
    def ssim(self, images: Sequence[Pixels]) -> list[float]:
        """Return SSIM of each image, in the delta form of `perturb.models.metrics`."""
        return [value for chunk in self._uploaded(images) for value in self._ssim(chunk).tolist()]

    def _ssim(self, images: torch.Tensor) -> torch.Tensor:
        d = (images.to(torch.int16) - self._clean.to(torch.int16)).permute(0, 3, 1, 2).float()
        mean_d = self._filtered(d)
        square = mean_d * mean_d
        var_d = self._filtered(d * d) - square
        contrast = self._filtered(self._twice_centred * d) - self._twice_mean_centred * mean_d + self._contrast + var_d
        luminance = (self._twice_mean + mean_d) * mean_d + self._luminance
        similarity = (1 - square / luminance) * (1 - var_d / contrast)
        return similarity.mean(dim=(1, 2, 3), dtype=torch.float64)

    def _filtered(self, values: torch.Tensor) -> torch.Tensor:
        # No padding: only windows that lie inside count. TF32 would leave three digits.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            rows = nn.functional.conv2d(values, self._rows, groups=3)
            return nn.functional.conv2d(rows, self._columns, groups=3)

    def _planes(self, moment: npt.NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(moment).permute(2, 0, 1)[None].to(self._device, torch.float32)

    def _uploaded(self, images: Sequence[Pixels]) -> Iterator[torch.Tensor]:
        for start in range(0, len(images), self._chunk):
            yield torch.from_numpy(np.stack(images[start : start + self._chunk])).to(self._device)
