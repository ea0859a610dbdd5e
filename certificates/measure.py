"""One image against all levels: rows of results, and the file that breaks it at the smallest level.

Three sources attack independently, so that they can be compared: AutoAttack, the `grid` attack, and the corpus' records
of the same photograph (`crowd`). Levels go upward. An image that a source broke at one level is broken at every larger
one by the same file, so only what survived goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perturb.attacks.grid import attack as grid_attack
from perturb.certificates.autoattack import breaks, run_autoattack
from perturb.certificates.draw import attack_seed
from perturb.certificates.statistics import decimal
from perturb.models.classifier import Classifier
from perturb.models.metrics import WINDOW, CleanSsim, distances
from perturb.models.prediction import predict, predict_reproducibly
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels, encode_png, pixel_identity

ResultRow = dict[str, Any]
# A deadline of `grid` that never comes, in seconds: what it finds must not depend on the time.
_NEVER = 1e12
SOURCES = ("autoattack", "grid", "crowd")


@dataclass(frozen=True)
class Measurement:
    """What is done to each image: the levels, upward; AutoAttack's attacks; and what the seeds follow from."""

    levels: tuple[int, ...]
    attacks: tuple[str, ...]
    use_grid: bool
    plan_sha256: str
    randomness: bytes


@dataclass(frozen=True)
class CrowdRecord:
    """A perturbed image of the corpus that shows the same original."""

    record_id: str
    pixels: Pixels


@dataclass(frozen=True)
class ImageResult:
    """The rows of one image, a level each, and its witness: the PNG that breaks it at the smallest level, or None."""

    rows: list[ResultRow]
    witness: bytes | None


@dataclass
class _Progress:
    """What the sources have done to an image so far: the first file of each, and the level at which it was found."""

    files: dict[str, Pixels] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    float_by: str | None = None


def measure_image(
    classifier: Classifier,
    pixels: Pixels,
    label: int,
    *,
    index: int,
    what: Measurement,
    crowd: Sequence[CrowdRecord] = (),
) -> ImageResult:
    """Attack one image, uint8 (H, W, 3), of class `label`, at each level. `index` is its place in the sample."""
    identity = pixel_identity(pixels)
    (clean,) = predict_reproducibly(pixels[None], true_label=label, classifier=classifier, boundaries=())
    exact = predict(classifier.exact_logits(pixels[None])[0], true_label=label)
    common = {
        "index": index,
        "identity": identity,
        "label": label,
        "clean_label": clean.label,
        "clean_margin": decimal(-exact.margin, 3),
    }
    if clean.label != label:
        return ImageResult(
            [{**_EMPTY, **common, "level": level, "status": "wrong_clean"} for level in what.levels], None
        )
    progress = _Progress()
    rows: list[ResultRow] = []
    witness: Pixels | None = None
    judged: ResultRow = {}
    for level in what.levels:
        row = {**_EMPTY, **common, "level": level, "status": "survived"}
        _attack(classifier, pixels, label, identity, level, what=what, crowd=crowd, progress=progress, row=row)
        if progress.files and witness is None:
            found = [source for source in SOURCES if source in progress.files]
            best = min(found, key=lambda source: distances(pixels, progress.files[source]).squares)
            witness = progress.files[best]
            judged = {"by": progress.by[best], **_judged(classifier, pixels, witness, label)}
        for source in SOURCES:
            row[source] = source in progress.files
        row["float_by"] = progress.float_by
        row["float_only"] = progress.float_by is not None and "autoattack" not in progress.files
        if witness is not None:
            row |= {"status": "broken", **judged}
        rows.append(row)
    return ImageResult(rows, None if witness is None else encode_png(witness))


_EMPTY: ResultRow = {
    "by": None,
    "autoattack": False,
    "grid": False,
    "crowd": False,
    "float_by": None,
    "float_only": False,
    "seed": None,
    "forwards": 0,
    "backwards": 0,
    "perturbed": None,
    "adversarial_label": None,
    "margin": None,
    "linf_levels": None,
    "l0": None,
    "psnr": None,
    "ssim": None,
}


def empty_rows(index: int, identity: str, label: int, levels: Sequence[int]) -> list[ResultRow]:
    """Return the rows of an image that was not attacked, because the time ran out."""
    common = {"index": index, "identity": identity, "label": label, "clean_label": None, "clean_margin": None}
    return [{**_EMPTY, **common, "level": level, "status": "not_run"} for level in levels]


def _attack(
    classifier: Classifier,
    pixels: Pixels,
    label: int,
    identity: str,
    level: int,
    *,
    what: Measurement,
    crowd: Sequence[CrowdRecord],
    progress: _Progress,
    row: ResultRow,
) -> None:
    """Let each source that has not broken the image try this level."""
    if "crowd" not in progress.files:
        for record in crowd:
            if distances(pixels, record.pixels).linf_levels <= level and breaks(classifier, record.pixels, label):
                progress.files["crowd"], progress.by["crowd"] = record.pixels, f"record {record.record_id}"
                break
    if what.use_grid and "grid" not in progress.files:
        answer = grid_attack(classifier, pixels, label, _bounds(level), deadline=_NEVER, seed=0)
        if answer.any() and distances(pixels, answer).linf_levels <= level and breaks(classifier, answer, label):
            progress.files["grid"], progress.by["grid"] = answer, "grid"
    if "autoattack" not in progress.files:
        seed = attack_seed(identity, level, plan_sha256=what.plan_sha256, randomness=what.randomness)
        outcome = run_autoattack(classifier, pixels, label, level=level, seed=seed, attacks=what.attacks)
        row |= {"seed": seed, "forwards": outcome.forwards, "backwards": outcome.backwards}
        progress.float_by = progress.float_by or outcome.float_by
        if outcome.found is not None and outcome.by is not None:
            progress.files["autoattack"], progress.by["autoattack"] = outcome.found, outcome.by


def _bounds(level: int) -> Bounds:
    return Bounds(epsilon_min=1 / LEVELS, epsilon=level / LEVELS, min_psnr=0, min_ssim=0, min_margin=0)


def _judged(classifier: Classifier, clean: Pixels, perturbed: Pixels, label: int) -> ResultRow:
    """What a row says of its witness, computed as a verifier computes it again."""
    exact = predict(classifier.exact_logits(perturbed[None])[0], true_label=label)
    return {
        "perturbed": pixel_identity(perturbed),
        "adversarial_label": exact.label,
        "margin": decimal(exact.margin, 3),
        **distance_columns(clean, perturbed),
    }


def distance_columns(clean: Pixels, perturbed: Pixels) -> ResultRow:
    """Return the columns that follow from two images alone; PSNR in dB, both decimal strings."""
    found = distances(clean, perturbed)
    big_enough = min(clean.shape[:2]) >= WINDOW
    return {
        "linf_levels": found.linf_levels,
        "l0": found.l0,
        "psnr": None if found.psnr is None else decimal(found.psnr, 3),
        "ssim": decimal(CleanSsim(clean).exact(perturbed), 6) if big_enough else None,
    }
