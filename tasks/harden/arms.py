"""Both arms of `harden-1`: a network tuned on perturbed images, and the control arm, and how far both are kept.

The control arm takes the same steps in the same order with every perturbed image replaced by its clean one. What both
arms forget, mere training makes a network forget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional

from perturb.models.classifier import Classifier
from perturb.schemas.errors import ModelError
from perturb.sinks.report.replace_file import replace_file
from perturb.tasks.harden.network import Split, blend, features_of, logits_of
from perturb.tasks.harden.pairs import Photograph, stack
from perturb.tasks.harden.train import Material, Recipe, Training

#: Shares of the way to the tuned weights that are tried, the largest first. More of it costs clean accuracy, and what
#: more it forgets the control arm forgets too.
SHARES = (0.6, 0.5, 0.4, 0.3, 0.2)
# On validation photographs and their mirror images: how much the negative log-likelihood may rise, in nats.
_MAX_LOSS = 0.2


@dataclass(frozen=True, eq=False)
class Arms:
    """The networks of both arms, blended, `share` of the way; and what PGD left while training, epoch after epoch."""

    hardened: Split
    control: Split
    share: float
    watched: tuple[float, ...]


def material_of(parent: Classifier, photographs: Sequence[Photograph], stages: int) -> Material:
    """Return what the recipe trains on. The newest target is the parent of the newest pair."""
    network = Split(parent, stages)
    clean, labels = stack(photographs)
    pairs = [(place, one) for place, photo in enumerate(photographs) for one in photo.versions]
    newest = max((one.day, one.target) for _, one in pairs)[1]
    return Material(
        clean=clean,
        labels=torch.from_numpy(labels).to(parent.device),
        photo=torch.tensor([place for place, _ in pairs]),
        clean_features=features_of(network, clean),
        perturbed_features=torch.cat(
            # A photograph at a time: all perturbed images together may not fit.
            [features_of(network, one.pixels[None]) for _, one in pairs],
            dim=1,
        ),
        miners=tuple(one.miner for _, one in pairs),
        newest=tuple(one.target == newest for _, one in pairs),
    )


def train_arms(
    parent: Classifier,
    material: Material,
    validation: Sequence[Photograph],
    recipe: Recipe,
    *,
    folder: Path | None,
    tell: Callable[[str], None],
) -> Arms:
    """Return both arms. What was trained is kept in `folder` after each epoch, and a later call goes on there."""
    control = replace(material, perturbed_features=material.clean_features[:, material.photo])
    hardened, other = Training(parent, material, recipe), Training(parent, control, recipe, control=True)
    _train(hardened, folder and folder / "hardened.pt", tell)
    _train(other, folder and folder / "control.pt", lambda text: tell(f"control arm: {text}"))
    before = Split(parent, recipe.stages)
    share = _largest_share(hardened.network, before, validation)
    tell(f"{share:.0%} of the way to the tuned weights is kept, as {len(validation)} validation photographs allow")
    for arm in (hardened.network, other.network):
        blend(arm, before, share)
    return Arms(hardened.network, other.network, share, tuple(hardened.progress.watched))


def _train(training: Training, kept: Path | None, tell: Callable[[str], None]) -> None:
    if kept is not None and kept.is_file():
        try:
            training.restore(torch.load(kept, weights_only=True))
        except Exception as error:
            raise ModelError(f"{kept} is not what a training left ({type(error).__name__}); delete it") from error
        tell(f"goes on after epoch {training.progress.epoch}")

    def keep() -> None:
        if kept is not None:
            replace_file(kept, _bytes(training.state()))

    training.run(keep, tell)


def _bytes(state: dict[str, object]) -> bytes:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _largest_share(tuned: Split, before: Split, validation: Sequence[Photograph]) -> float:
    """Return the largest share at which validation photographs are as right as before, and about as likely."""
    pixels, truth = stack(validation)
    features, labels = features_of(before, pixels), torch.from_numpy(truth)
    old_right, old_loss = _score(before, features, labels)
    state = tuned.state()
    for share in SHARES:
        blend(tuned, before, share)
        right, loss = _score(tuned, features, labels)
        tuned.load(state)
        if right >= old_right and loss <= old_loss + _MAX_LOSS:
            return share
    return SHARES[-1]


def _score(network: Split, features: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
    logits = torch.cat([logits_of(network, view) for view in features])
    truth = labels.to(logits.device).repeat(len(features))
    return int((logits.argmax(dim=1) == truth).sum()), float(functional.cross_entropy(logits, truth))
