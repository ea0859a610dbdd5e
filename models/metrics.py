"""How far a perturbed image is from its clean one. Norms are counted on integers: no float decides their gates.

SSIM is that of Wang, Bovik, Sheikh and Simoncelli (2004), "Image quality assessment: from error visibility to
structural similarity": Gaussian weights of sigma 1.5 in an 11 x 11 window, population covariance, data range 255,
mean over the RGB channels and over the pixels whose window lies inside the image. That is what scikit-image's
`structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)` computes.

It is evaluated in delta form. With d = y - x and local Gaussian moments E[.],

    SSIM = (1 - E[d]^2 / (mu_x^2 + mu_y^2 + C1)) * (1 - Var[d] / (var_x + var_y + C2)),

because the numerators of the two factors are their denominators less E[d]^2 and Var[d]. Three filterings (d, d^2,
x d) replace five, everything about x is computed once for a challenge, and nothing nearly equal is subtracted:
float32 is within 1e-8 of float64. The form also proves the bound of `ssim_is_surely_above`.
"""

from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache
from math import log10, sqrt
from typing import Generic, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from perturb.schemas.image import Pixels

SSIM_DEFINITION = "wang2004-gaussian1.5-window11-rgb"
SSIM_DECIMALS = 9
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
WINDOW = 11
MARGIN = WINDOW // 2
SIGMA = 1.5
_ROWS = 128
_Float64 = npt.NDArray[np.float64]
_F = TypeVar("_F", np.float32, np.float64)


@dataclass(frozen=True)
class Distances:
    """Integer distances of two images of `values` channel values (height x width x 3).

    `linf_levels` is max|a-b| in 0..255, `l0` counts differing channel values, `l0_pixels` pixels in which any
    channel differs, `squares` is the sum of (a-b)^2 in squared levels, exactly.
    """

    values: int
    linf_levels: int
    l0: int
    l0_pixels: int
    squares: int

    @property
    def changed_share(self) -> float:
        """Share of channel values that differ, 0..1."""
        return self.l0 / self.values

    @property
    def linf(self) -> float:
        """max|a-b| on the 0..1 scale."""
        return self.linf_levels / 255

    @property
    def l2(self) -> float:
        """Euclidean norm on the 0..1 scale."""
        return sqrt(self.squares) / 255

    @property
    def rmse(self) -> float:
        """Root mean square on the 0..1 scale."""
        return sqrt(self.squares / self.values) / 255

    @property
    def psnr(self) -> float | None:
        """dB at data range 255; None where nothing differs."""
        return 10 * log10(255**2 * self.values / self.squares) if self.squares else None


def distances(clean: Pixels, perturbed: Pixels) -> Distances:
    """Return the integer distances of two uint8 images (height, width, 3). Raises ValueError for two shapes."""
    check_pair(clean, perturbed)
    difference: Pixels = np.asarray(cv2.absdiff(clean, perturbed), np.uint8)
    return Distances(
        values=clean.size,
        linf_levels=int(difference.max()),
        l0=int(np.count_nonzero(difference)),
        l0_pixels=int(np.count_nonzero(difference[..., 0] | difference[..., 1] | difference[..., 2])),
        # Sums of integers below 2^53 in a double: exact.
        squares=round(cv2.norm(difference, cv2.NORM_L2SQR)),
    )


def check_pair(clean: Pixels, perturbed: Pixels) -> None:
    """Raise ValueError unless both are uint8 of the same (height, width, 3)."""
    for name, pixels in (("clean", clean), ("perturbed", perturbed)):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.shape != clean.shape:
            raise ValueError(
                f"{name} image is {pixels.dtype} of shape {pixels.shape}; accepted: two uint8 images of the same "
                f"(height, width, 3)"
            )


@lru_cache(maxsize=64)
def max_squares(min_psnr: float, values: int) -> int:
    """Return the largest sum of squared levels over `values` channel values whose PSNR is still at least `min_psnr` dB.

    Computed in decimal, which every machine rounds alike, so that the PSNR gate is a comparison of integers.
    """
    with localcontext() as context:
        context.prec = 50
        return int(Decimal(255**2 * values) / Decimal(10) ** (Decimal(repr(min_psnr)) / 10))


def ssim_is_surely_above(distance: Distances, min_ssim: float, *, height: int, width: int) -> bool:
    """Return whether the mean squared error alone proves SSIM >= `min_ssim`. Otherwise SSIM must be computed.

    In the delta form (1-a)(1-b) >= 1-a-b with a <= E[d]^2/C1 and b <= Var[d]/C2 <= Var[d]/C1, and E[d]^2 + Var[d] is
    the local mean of d^2. Each squared level enters the local means with a total weight of at most 1, so
    SSIM >= 1 - sum(d^2) / (C1 * windows), where `windows` counts the channel values whose window lies inside.
    """
    windows = 3 * (height - 2 * MARGIN) * (width - 2 * MARGIN)
    # A part in 10^9 covers the rounding of this line itself.
    lowest = 1 - distance.squares / (C1 * windows) * (1 + 1e-9) - 1e-9
    return lowest >= min_ssim


class CleanSsim:
    """SSIM of many perturbed images against one clean image, whose own statistics are computed once.

    `clean` is uint8 (height, width, 3), at least 11 x 11; raises ValueError for a smaller one. Thread-safe.
    """

    def __init__(self, clean: Pixels):
        if min(clean.shape[:2]) < WINDOW:
            raise ValueError(f"SSIM needs at least {WINDOW}x{WINDOW} pixels, the clean image has {clean.shape[:2]}")
        self.clean = clean

    def __call__(self, perturbed: Pixels) -> float:
        """Return SSIM within 1e-8 of its float64 value, in single precision."""
        return _ssim(self._single, self.clean, perturbed)

    def exact(self, perturbed: Pixels) -> float:
        """Return SSIM in double precision: machines agree to about 1e-14, at two and a half times the cost."""
        return _ssim(self._double, self.clean, perturbed)

    @cached_property
    def _moments(self) -> tuple[_Float64, _Float64, _Float64]:
        return clean_moments(self.clean)

    @cached_property
    def _single(self) -> "_Statistics[np.float32]":
        return _Statistics(self._moments, np.float32)

    @cached_property
    def _double(self) -> "_Statistics[np.float64]":
        return _Statistics(self._moments, np.float64)


def gaussian() -> npt.NDArray[np.float64]:
    """Return the window's one-dimensional weights, float64 (11,), summing to 1."""
    return np.asarray(cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_64F)[:, 0], np.float64)


def clean_moments(clean: Pixels) -> tuple[_Float64, _Float64, _Float64]:
    """Return the image less 128, its local mean and its local variance, float64 (height, width, 3) each.

    SSIM's covariances don't change when both images are shifted; centred values leave them more digits.
    """
    centred = clean.astype(np.float64) - 128
    weights = gaussian()
    mean = _filtered(centred, weights)
    variance = _filtered(centred * centred, weights) - mean * mean
    return centred, mean, variance


class _Statistics(Generic[_F]):
    """What the delta form needs of the clean image, in one precision."""

    def __init__(self, moments: tuple[_Float64, _Float64, _Float64], dtype: type[_F]):
        centred, mean, variance = moments
        self.dtype: type[_F] = dtype
        self.weights: npt.NDArray[_F] = gaussian().astype(dtype)
        self.twice_centred: npt.NDArray[_F] = (2 * centred).astype(dtype)
        self.twice_mean_centred: npt.NDArray[_F] = (2 * mean).astype(dtype)
        self.twice_mean: npt.NDArray[_F] = (2 * (mean + 128)).astype(dtype)
        self.luminance: npt.NDArray[_F] = (2 * (mean + 128) ** 2 + C1).astype(dtype)
        self.contrast: npt.NDArray[_F] = (2 * variance + C2).astype(dtype)


def _ssim(clean: _Statistics[_F], x: Pixels, y: Pixels) -> float:
    check_pair(x, y)
    height, width, channels = x.shape
    inside = slice(MARGIN, -MARGIN)
    total = 0.0
    # Strips keep the temporaries in the cache and the memory of many threads small.
    for top in range(MARGIN, height - MARGIN, _ROWS):
        bottom = min(top + _ROWS, height - MARGIN)
        rows, strip = slice(top, bottom), slice(top - MARGIN, bottom + MARGIN)
        d: npt.NDArray[_F] = np.subtract(y[strip], x[strip], dtype=clean.dtype)
        mean_d = _filtered(d, clean.weights)[inside]
        twice_mean_xd = _filtered(clean.twice_centred[strip] * d, clean.weights)[inside]
        var_d = _filtered(np.multiply(d, d, out=d), clean.weights)[inside]
        square = mean_d * mean_d
        var_d -= square
        # var_x + var_y + C2 = (2 var_x + C2) + 2 cov(x, d) + Var[d]
        contrast = twice_mean_xd
        contrast -= clean.twice_mean_centred[rows] * mean_d
        contrast += clean.contrast[rows]
        contrast += var_d
        # mu_x^2 + mu_y^2 + C1 = (2 mu_x^2 + C1) + (2 mu_x + E[d]) E[d]
        luminance = clean.twice_mean[rows] + mean_d
        luminance *= mean_d
        luminance += clean.luminance[rows]
        similarity = (1 - square / luminance) * (1 - var_d / contrast)
        total += float(similarity[:, inside].sum(dtype=np.float64))
    return total / float(channels * (height - 2 * MARGIN) * (width - 2 * MARGIN))


def _filtered(values: npt.NDArray[_F], weights: npt.NDArray[_F]) -> npt.NDArray[_F]:
    return cast("npt.NDArray[_F]", cv2.sepFilter2D(values, -1, weights, weights))
