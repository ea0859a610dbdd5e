"""The gates that need no network: duplicates, L-inf, PSNR, SSIM. And what verification knows of each response."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from perturb.models.metrics import (
    SSIM_DECIMALS,
    SSIM_DEFINITION,
    CleanSsim,
    Distances,
    distances,
    max_squares,
    ssim_is_surely_above,
)
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.record import record_id
from perturb.schemas.response import Response
from perturb.schemas.verdict import Verdict

if TYPE_CHECKING:
    from perturb.models.metrics_gpu import DeviceMetrics

# Single precision is within 1e-8 of the exact SSIM; nearer to the bound than this, double precision decides.
_SSIM_SETTLE = 1e-6
NEAR_DUPLICATE_COSINE = 0.95
_COSINE_BLOCK = 2**16


@dataclass
class Case:
    """One response on its way through the gates. Open until a gate refuses it; `found` fills the verdict."""

    response: Response
    pixels: Pixels | None = None
    distance: Distances | None = None
    outcome: str | None = None
    detail: str | None = None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.response.failure is not None:
            self.refuse(self.response.failure, self.response.detail)

    @property
    def open(self) -> bool:
        """Whether no gate has refused it yet."""
        return self.outcome is None

    def refuse(self, outcome: str, detail: str | None) -> None:
        """Ends the case with a reason, and lets its pixels go."""
        self.outcome, self.detail, self.pixels = outcome, detail, None

    def image(self) -> Pixels:
        """The decoded pixels; only open cases that passed decoding have them."""
        assert self.pixels is not None
        return self.pixels

    def verdict(self, bounds: Bounds) -> Verdict:
        """What came out; an accepted answer that earns nothing is told why."""
        if self.outcome is not None:
            return Verdict(outcome=self.outcome, detail=self.detail, **self.found)
        margin = self.found.get("margin")
        detail = None
        if margin is not None and margin < bounds.min_margin:
            detail = (
                f"accepted, but it earns nothing: its margin is {margin:.3f} logits, asked are {bounds.min_margin:g}; "
                f"push the other label further"
            )
        return Verdict(outcome=Outcome.ACCEPTED, detail=detail, **self.found)


def find_duplicates(cases: Sequence[Case], *, task_id: str) -> None:
    """Refuses all but the fastest of the answers that show the same pixels."""
    first: dict[str, Case] = {}
    for case in _fastest_first(cases):
        identity = case.found["perturbed_sha256"]
        fastest = first.setdefault(identity, case)
        if fastest is not case:
            case.found["duplicate_of"] = _record_id(fastest, task_id)
            case.refuse(
                Outcome.DUPLICATE,
                f"miner {fastest.response.miner_uid} sent the same pixels "
                f"{case.response.response_ms - fastest.response.response_ms:.0f} ms earlier; "
                f"start the attack from a random point, or answer faster",
            )


def find_near_duplicates(cases: Sequence[Case], clean: Pixels, *, task_id: str) -> None:
    """Marks accepted answers whose perturbation has a cosine above 0.95 with that of a faster one. They keep their
    score: the mark lets a consumer of the dataset leave out what adds little."""
    ordered = _fastest_first(cases)
    cosines = perturbation_cosines([case.image() for case in ordered], clean)
    for place, case in enumerate(ordered):
        near = np.flatnonzero(cosines[place, :place] > NEAR_DUPLICATE_COSINE)
        if near.size:
            case.found["near_duplicate_of"] = _record_id(ordered[int(near[0])], task_id)


def perturbation_cosines(images: Sequence[Pixels], clean: Pixels) -> npt.NDArray[np.float64]:
    """Cosines between the perturbations of uint8 images against `clean`, float64 (n, n); 0 where one is empty."""
    flat = [image.reshape(-1) for image in images]
    reference = clean.reshape(-1)
    gram = np.zeros((len(images), len(images)))
    # Block by block: the perturbations of a whole round as floats would take gigabytes.
    for start in range(0, reference.size if images else 0, _COSINE_BLOCK):
        block = slice(start, start + _COSINE_BLOCK)
        delta = np.stack([image[block] for image in flat]).astype(np.float32)
        delta -= reference[block]
        gram += delta @ delta.T
    norms = np.sqrt(np.diag(gram))
    cosines: npt.NDArray[np.float64] = gram / np.maximum(np.outer(norms, norms), 1e-12)
    return cosines


class PixelGates:
    """L-inf, PSNR and SSIM against one clean image, whose SSIM statistics are computed once."""

    def __init__(self, clean: Pixels, bounds: Bounds, *, on_device: "DeviceMetrics | None" = None, threads: int = 2):
        self._clean = clean
        self._device = on_device
        self._bounds = bounds
        self._max_squares = max_squares(bounds.min_psnr, clean.size)
        self._ssim = CleanSsim(clean)
        self._threads = threads

    def apply(self, cases: Sequence[Case]) -> None:
        """Refuses what is out of bounds. SSIM stays open where the error alone proves that it holds."""
        images = [case.image() for case in cases]
        measured = self._device.distances(images) if self._device else [distances(self._clean, i) for i in images]
        for case, distance in zip(cases, measured, strict=True):
            _note_distance(case, distance)
            self._check_norms(case)
        height, width, _ = self._clean.shape
        unproven = [
            case
            for case in cases
            if case.open
            and not ssim_is_surely_above(_distance(case), self._bounds.min_ssim, height=height, width=width)
        ]
        self._measure_ssim(unproven)
        for case in unproven:
            if case.found["ssim"] < self._bounds.min_ssim:
                case.refuse(
                    Outcome.SSIM_TOO_LOW,
                    f"SSIM is {case.found['ssim']:.6f}, asked are at least {self._bounds.min_ssim:g}; "
                    f"change fewer values, or change them where the picture has texture",
                )

    def complete(self, cases: Sequence[Case]) -> None:
        """Computes SSIM for the answers that passed its gate by the bound."""
        self._measure_ssim([case for case in cases if "ssim" not in case.found])

    def _check_norms(self, case: Case) -> None:
        distance, bounds = _distance(case), self._bounds
        levels = distance.linf_levels
        if levels == 0:
            case.refuse(Outcome.UNCHANGED, "the image is the clean one, pixel for pixel; change it")
        elif levels < bounds.min_levels:
            case.refuse(
                Outcome.LINF_TOO_SMALL,
                f"L-inf is {levels} levels of 255, asked are at least {bounds.min_levels}; change some value by more",
            )
        elif levels > bounds.max_levels:
            case.refuse(
                Outcome.LINF_TOO_LARGE,
                f"L-inf is {levels} levels of 255, allowed are {bounds.max_levels} (epsilon {bounds.epsilon:.5f}); "
                f"clip the perturbation after rounding to 8 bits",
            )
        elif distance.squares > self._max_squares:
            case.refuse(
                Outcome.PSNR_TOO_LOW,
                f"PSNR is {distance.psnr:.2f} dB, asked are at least {bounds.min_psnr:g}; change fewer values or less",
            )

    def _measure_ssim(self, cases: Sequence[Case]) -> None:
        if not cases:
            return
        if self._device:
            values = self._device.ssim([case.image() for case in cases])
        else:
            with ThreadPoolExecutor(self._threads) as threads:
                values = list(threads.map(lambda case: self._ssim(case.image()), cases))
        for case, value in zip(cases, values, strict=True):
            if abs(value - self._bounds.min_ssim) < _SSIM_SETTLE:
                value = self._ssim.exact(case.image())
            case.found |= {"ssim": round(value, SSIM_DECIMALS), "ssim_definition": SSIM_DEFINITION}


def _note_distance(case: Case, distance: Distances) -> None:
    case.distance = distance
    case.found |= {
        "linf": distance.linf,
        "linf_levels": distance.linf_levels,
        "l0": distance.l0,
        "l0_pixels": distance.l0_pixels,
        "l2": distance.l2,
        "rmse": distance.rmse,
        "psnr": distance.psnr,
    }


def _fastest_first(cases: Sequence[Case]) -> list[Case]:
    return sorted(cases, key=lambda case: (case.response.response_ms, case.response.miner_uid))


def _record_id(case: Case, task_id: str) -> str:
    return record_id(task_id, case.response.miner_hotkey, case.found["perturbed_sha256"])


def _distance(case: Case) -> Distances:
    assert case.distance is not None
    return case.distance
