"""The gates that need no network: decoding, duplicates, L-inf, PSNR and SSIM."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from perturb.models.metrics import (
    SSIM_DECIMALS,
    SSIM_DEFINITION,
    distances,
    max_squares,
    ssim_is_surely_above,
)
from perturb.schemas.challenge import Task
from perturb.schemas.image import pixel_identity
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused
from perturb.tasks.verify.case import Case, Refusal, fastest_first
from perturb.tasks.verify.context import RoundContext
from perturb.tasks.verify.gates.base import EQUAL, Columns, FigureGate, Gate

# Single precision is within 1e-8 of the exact SSIM. Nearer to the bound than this, double precision decides.
_DOUBLE_PRECISION_BAND = 1e-6
_SSIM_THREADS = 2


class Decode(Gate):
    """Refuses files that are not the one accepted kind of PNG, and gives the others their pixels."""

    name = "file"
    outcomes = (
        Outcome.TOO_LARGE,
        Outcome.NOT_PNG,
        Outcome.WRONG_MODE,
        Outcome.WRONG_SIZE,
        Outcome.EXTRA_CHUNKS,
        Outcome.TRAILING_DATA,
        Outcome.CORRUPT,
        Outcome.DECODER_FAILED,
    )
    columns: ClassVar[Columns] = {"perturbed_sha256": EQUAL}

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Check structure and decode (sandboxed), equal files once."""
        bodies = [case.response.body for case in cases]
        decoded = context.pool.decode(bodies, height=context.task.height, width=context.task.width)
        for case, result in zip(cases, decoded, strict=True):
            if isinstance(result, PngRefused):
                case.refuse(result.outcome, result.detail)
            else:
                case.pixels = result
                case.findings.perturbed_sha256 = pixel_identity(result)


class Duplicates(Gate):
    """Refuses what an earlier round accepted for the photograph, and all but the fastest of answers of equal pixels."""

    name = "identity"
    outcomes = (Outcome.DUPLICATE,)
    columns: ClassVar[Columns] = {"duplicate_of": None, "duplicate_round": None}
    scope = "round"

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Compare pixel identities, which all cases have by now."""
        first: dict[str | None, Case] = {}
        for case in fastest_first(cases):
            before = context.earlier.get(case.findings.perturbed_sha256 or "")
            if before is not None:
                case.findings.duplicate_of, case.findings.duplicate_round = before
                case.refuse(
                    Outcome.DUPLICATE,
                    f"record {before.record_id} of round {before.round_id} has the same pixels, and an answer to a "
                    f"photograph counts once; compute a new perturbation, from another starting point",
                )
                continue
            fastest = first.setdefault(case.findings.perturbed_sha256, case)
            if fastest is not case:
                case.findings.duplicate_of = fastest.record_id(context)
                case.findings.duplicate_round = context.round_id
                case.refuse(
                    Outcome.DUPLICATE,
                    f"miner {fastest.response.miner_uid} sent the same pixels "
                    f"{case.response.response_ms - fastest.response.response_ms:.0f} ms earlier; "
                    f"start the attack from a random point, or answer faster",
                )


class MeasureDistances(Gate):
    """Measures the integer distances to the clean image, and what follows from them. Refuses nothing."""

    name = "distances"
    columns: ClassVar[Columns] = {
        "linf": 1e-12,
        "linf_levels": EQUAL,
        "l0": EQUAL,
        "l0_pixels": EQUAL,
        "changed_share": 1e-12,
        "l2": 1e-9,
        "rmse": 1e-12,
        "psnr": 1e-9,
    }

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Measure on the classifier's GPU where it has one: the integers are the same."""
        images = [case.image() for case in cases]
        device = context.device_metrics
        measured = device.distances(images) if device else [distances(context.clean, image) for image in images]
        for case, distance in zip(cases, measured, strict=True):
            case.distance = distance
            case.findings.linf = distance.linf
            case.findings.linf_levels = distance.linf_levels
            case.findings.l0 = distance.l0
            case.findings.l0_pixels = distance.l0_pixels
            case.findings.changed_share = distance.changed_share
            case.findings.l2 = distance.l2
            case.findings.rmse = distance.rmse
            case.findings.psnr = distance.psnr


class Linf(FigureGate):
    """Refuses an unchanged image, and a largest change outside the bounds. Compares integers; both ends are allowed."""

    name = "L-inf"
    outcomes = (Outcome.UNCHANGED, Outcome.LINF_TOO_SMALL, Outcome.LINF_TOO_LARGE)

    def refusal(self, case: Case, task: Task) -> Refusal | None:
        """Compare max|a-b| in levels with the bounds."""
        levels, bounds = case.measured().linf_levels, task.bounds
        if levels == 0:
            return Refusal(Outcome.UNCHANGED, "the image equals the clean image in every pixel; change it")
        if levels < bounds.min_levels:
            return Refusal(
                Outcome.LINF_TOO_SMALL,
                f"L-inf is {levels} of 255 levels, below the minimum of {bounds.min_levels}; "
                f"change at least one value by more",
            )
        if levels > bounds.max_levels:
            return Refusal(
                Outcome.LINF_TOO_LARGE,
                f"L-inf is {levels} of 255 levels, above the maximum of {bounds.max_levels} "
                f"(epsilon {bounds.epsilon:.5f}); clip the perturbation after rounding to 8 bits",
            )
        return None


class Psnr(FigureGate):
    """Refuses a mean squared error above what the smallest PSNR allows. Compares integers; equality is allowed."""

    name = "PSNR"
    outcomes = (Outcome.PSNR_TOO_LOW,)

    def refusal(self, case: Case, task: Task) -> Refusal | None:
        """Compare the sum of squared levels with the largest one that `min_psnr` allows."""
        distance, least = case.measured(), task.bounds.min_psnr
        if distance.squares <= max_squares(least, distance.values):
            return None
        return Refusal(
            Outcome.PSNR_TOO_LOW,
            f"PSNR is {distance.psnr:.2f} dB, below the minimum of {least:g} dB; "
            f"change fewer values, or change them by less",
        )


class Ssim(FigureGate):
    """Refuses a structural similarity below the bound. Compares nine decimals; equality is allowed.

    Where the mean squared error alone proves that SSIM is above the bound, SSIM is not computed here:
    `CompleteSsim` does it for the answers that also pass the flip.
    """

    name = "SSIM"
    outcomes = (Outcome.SSIM_TOO_LOW,)
    columns: ClassVar[Columns] = {"ssim": 1e-6, "ssim_definition": EQUAL}

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Measure SSIM where the error leaves it open, and refuse what is too low."""
        task = context.task
        unproven = [
            case
            for case in cases
            if not ssim_is_surely_above(case.measured(), task.bounds.min_ssim, height=task.height, width=task.width)
        ]
        measure_ssim(unproven, context)
        super().__call__(unproven, context)

    def refusal(self, case: Case, task: Task) -> Refusal | None:
        """Compare SSIM with the bound, where it was measured."""
        ssim, least = case.findings.ssim, task.bounds.min_ssim
        if ssim is None or ssim >= least:
            return None
        return Refusal(
            Outcome.SSIM_TOO_LOW,
            f"SSIM is {ssim:.6f}, below the minimum of {least:g}; "
            f"change fewer values, or change them where the image has texture",
        )


class CompleteSsim(Gate):
    """Measures SSIM of the answers that passed its gate by the bound. Refuses nothing."""

    name = "SSIM of the answers that flip"
    columns: ClassVar[Columns] = Ssim.columns

    def __call__(self, cases: Sequence[Case], context: RoundContext) -> None:
        """Measure where it was not measured before."""
        measure_ssim([case for case in cases if case.findings.ssim is None], context)


def measure_ssim(cases: Sequence[Case], context: RoundContext) -> None:
    """Write SSIM, to nine decimals, into the findings; near the task's bound it is computed in double precision."""
    if not cases:
        return
    ssim = context.ssim
    if context.device_metrics:
        values = context.device_metrics.ssim([case.image() for case in cases])
    else:
        with ThreadPoolExecutor(_SSIM_THREADS) as threads:
            values = list(threads.map(lambda case: ssim(case.image()), cases))
    for case, value in zip(cases, values, strict=True):
        near = abs(value - context.task.bounds.min_ssim) < _DOUBLE_PRECISION_BAND
        decided = ssim.exact(case.image()) if near else value
        case.findings.ssim = round(decided, SSIM_DECIMALS)
        case.findings.ssim_definition = SSIM_DEFINITION
