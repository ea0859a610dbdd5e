"""Measure a network that wants to become a target: its report card, on photographs that it was not trained on.

card = measure(challenger, parent=parent, first=first, control=control, photographs=held_out, training=training)
verdict = judge(card)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from perturb.models.bootstrap import Sums
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.image import Pixels
from perturb.schemas.report_card import Clean, Learned, ReportCard, Share, Soundness
from perturb.tasks.targets.effort import FRESH, Effort, attack_anew, effort_ratio, summarise
from perturb.tasks.targets.estimates import difference, each, share
from perturb.tasks.targets.fresh import labels_of, pgd
from perturb.tasks.targets.gates import sound
from perturb.tasks.targets.leaks import shared_photographs
from perturb.tasks.targets.masking import measure_masking

#: Bounds of PGD with ten steps, in levels of 255.
PGD_LEVELS = (0.25, 0.5, 1.0)
# Photographs that are attacked anew. The others are only classified, which costs a fiftieth.
_ATTACKED = 32
_SOUND_IMAGES = 32

Breaks = Callable[[Classifier, Pixels, int], bool]
"""An attack at one level: (network, uint8 (H, W, 3), label) -> whether it found another label."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A photograph, uint8 (H, W, 3), its label, and perturbed versions of it by the target they were made against."""

    pixels: Pixels
    label: int
    versions: dict[str, tuple[Pixels, ...]] = field(default_factory=dict)


def measure(
    challenger: Classifier,
    *,
    parent: Classifier,
    first: Classifier,
    photographs: Sequence[HeldOut],
    control: Classifier | None = None,
    training: Sequence[Pixels] | None = None,
    watched: Sequence[float] | None = None,
    stated_sha256: str | None = None,
    bounds: Bounds | None = None,
    attacked: int = _ATTACKED,
    standard: Breaks | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> ReportCard:
    """Return the report card of a network of the same classes and input size as `parent` and `first`.

    `control` is the control arm (without it, "learned" cannot be measured); `training` the photographs that were
    trained on, `watched` accuracy under PGD while training, both None where they are unknown. `stated_sha256` is the
    digest that the challenger's weights should have. The first `attacked` photographs are attacked anew within
    `bounds`; `standard` is a further attack. `tell` receives what is measured next. A network that is not sound is not
    measured further. Raises ValueError without photographs.
    """
    if not photographs:
        raise ValueError("a network is measured on at least one photograph")
    tell("soundness")
    soundness = _soundness(challenger, parent, photographs, stated_sha256 or challenger.sha256)
    card = ReportCard(sound=soundness)
    if sound(card) is not None:
        return card
    clean = np.stack([one.pixels for one in photographs])
    truth = np.array([one.label for one in photographs], np.int64)
    tell(f"clean accuracy on {len(photographs)} photographs and their mirror images")
    fields: dict[str, object] = {"clean": _clean(challenger, parent, first, clean, truth)}
    tell("perturbations of earlier generations")
    fields |= _old(challenger, parent, control, photographs)
    few, labels = _right(clean[:attacked], truth[:attacked], challenger, parent)
    if len(few):
        limits = bounds or Bounds()
        own = {}
        for name in FRESH:
            tell(f"fresh attack {name} on {len(few)} photographs")
            own[name] = attack_anew(challenger, name, few, labels, bounds=limits, seed=seed)
        grid = own["grid"]
        if parent.sha256 != challenger.sha256:
            tell(f"fresh attack grid on the parent, on {len(few)} photographs")
            grid = attack_anew(parent, "grid", few, labels, bounds=limits, seed=seed)
        fields |= _fresh(own, grid)
        tell("PGD with ten steps, and checks for masked gradients")
        fields["pgd_accuracy"] = _pgd_accuracy(challenger, few, labels, seed)
        fields["masking"] = measure_masking(challenger, parent, few, labels, seed=seed)
        if standard is not None:
            tell("AutoAttack (apgd-ce) at one level")
            held = [not standard(challenger, *pair) for pair in zip(few, labels.tolist(), strict=True)]
            fields["standard_accuracy"] = share(each(np.array(held)))
    if training is not None:
        fields["shared_photographs"] = len(shared_photographs(list(clean), training))
    fields["watched"] = None if watched is None else tuple(watched)
    return ReportCard.model_validate(card.model_dump() | fields)


def _soundness(challenger: Classifier, parent: Classifier, photographs: Sequence[HeldOut], stated: str) -> Soundness:
    images = np.stack([one.pixels for one in photographs[:_SOUND_IMAGES]])
    fault = None
    if (challenger.height, challenger.width) != (parent.height, parent.width):
        size = f"{parent.height} x {parent.width}"
        fault = f"takes {challenger.height} x {challenger.width} pixels, {size} expected"
    finite = 0
    if fault is None:
        with torch.no_grad():
            for image in images:
                point = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(challenger.device) / LEVELS
                finite += bool(torch.isfinite(challenger.module(point)).all())
    return Soundness(
        fault=fault,
        digest_matches=challenger.sha256 == stated,
        classes=challenger.num_classes,
        expected_classes=parent.num_classes,
        images=len(images),
        finite_images=finite,
    )


def _clean(
    challenger: Classifier, parent: Classifier, first: Classifier, clean: Pixels, truth: npt.NDArray[np.int64]
) -> Clean:
    views = (clean, np.ascontiguousarray(clean[:, :, ::-1]))
    own, older, oldest = ([labels_of(net, view) for view in views] for net in (challenger, parent, first))

    def right(labels: list[npt.NDArray[np.int64]], other: list[npt.NDArray[np.int64]] | None = None) -> Sums:
        pairs = zip(labels, other or [truth] * len(labels), strict=True)
        return each(np.mean([one == two for one, two in pairs], axis=0))

    return Clean.model_validate(
        {
            "accuracy": share(right(own)),
            "against_parent": difference(right(own), right(older)),
            "against_first": difference(right(own), right(oldest)),
            "agreement": share(right(own, oldest)),
        }
    )


def _old(
    challenger: Classifier, parent: Classifier, control: Classifier | None, photographs: Sequence[HeldOut]
) -> dict[str, object]:
    own, older = old_flips(challenger, photographs), old_flips(parent, photographs)
    found: dict[str, object] = {"old_flips": _rows(own)}
    if control is None or not own:
        return found
    other = old_flips(control, photographs)
    against = {
        "against_parent": difference(sum(own.values(), _zero(own)), sum(older.values(), _zero(own))),
        "against_control": difference(sum(own.values(), _zero(own)), sum(other.values(), _zero(own))),
    }
    return found | {"control_flips": _rows(other), "learned": Learned.model_validate(against)}


def old_flips(network: Classifier, photographs: Sequence[HeldOut]) -> dict[str, Sums]:
    """Return, by the target they were made against, how many versions of each photograph flip, of how many."""
    names = sorted({name for one in photographs for name in one.versions})
    found = {name: np.zeros((len(photographs), 2)) for name in names}
    for place, one in enumerate(photographs):
        for name, versions in one.versions.items():
            if versions:
                flips = labels_of(network, np.stack(versions)) != one.label
                found[name][place] = (flips.sum(), len(flips))
    return {name: sums for name, sums in found.items() if sums[:, 1].sum()}


def _zero(sums: dict[str, Sums]) -> Sums:
    return np.zeros_like(next(iter(sums.values())))


def _rows(sums: dict[str, Sums]) -> dict[str, Share | None]:
    return {name: share(one) for name, one in sums.items()}


def _right(clean: Pixels, truth: npt.NDArray[np.int64], *networks: Classifier) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return the photographs that all networks get right: only those can be flipped."""
    kept = np.all([labels_of(network, clean) == truth for network in networks], axis=0)
    return clean[kept], truth[kept]


def _fresh(own: dict[str, list[Effort]], grid: list[Effort]) -> dict[str, object]:
    return {
        "fresh": tuple(summarise(name, efforts) for name, efforts in own.items()),
        "effort_ratio": effort_ratio(own["grid"], grid),
    }


def _pgd_accuracy(
    challenger: Classifier, few: Pixels, labels: npt.NDArray[np.int64], seed: int
) -> dict[str, Share | None]:
    found = {level: pgd(challenger, few, labels, level=level, seed=seed).flipped for level in PGD_LEVELS}
    return {f"{level:g}": share(each(~flipped)) for level, flipped in found.items()}
