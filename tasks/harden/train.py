"""One arm of the training: the last stages of a network, tuned on clean and perturbed images.

The loss has two parts for clean and perturbed image alike: cross-entropy, and the divergence of what the network says
from what its parent said about the clean image, so that the network changes little (consistency: Zheng et al. 2016,
arXiv:1604.04326; distillation: Hinton et al. 2015, arXiv:1503.02531). With `fresh`, one-step perturbations from a
random start are made against the network while it is trained (FGSM-RS: Wong et al. 2020, arXiv:2001.03994).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS
from perturb.schemas.image import Pixels
from perturb.tasks.harden.batches import epoch_of
from perturb.tasks.harden.network import Split, as_images, logits_of
from perturb.tasks.targets.fresh import pgd

# Training photographs on which PGD with three steps is watched.
_WATCHED = 16
_FRESH_IMAGES = 8


@dataclass(frozen=True)
class Recipe:
    """The parameters of `harden-1`. `rate` is AdamW's, `stages` counts the last stages that are tuned."""

    epochs: int = 8
    stages: int = 2
    rate: float = 1e-4
    weight_decay: float = 1e-4
    fresh: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Material:
    """What is trained on. `photo[i]` is the place in `clean`, uint8 (P, H, W, 3), of the photograph of pair i.

    Features are of images and mirror images, float (2, P, ...) and (2, pairs, ...). In the control arm, `perturbed` has
    each pair's clean features.
    """

    clean: Pixels
    labels: torch.Tensor
    photo: torch.Tensor
    clean_features: torch.Tensor
    perturbed_features: torch.Tensor
    miners: tuple[str, ...]
    newest: tuple[bool, ...]


@dataclass
class Progress:
    """Where a training is: epochs done, and what PGD left after each of them, accuracy in 0..1."""

    epoch: int = 0
    watched: list[float] = field(default_factory=list)


class Training:
    """A network in training. `state` and `restore` let it go on in another process with the same result."""

    def __init__(self, parent: Classifier, material: Material, recipe: Recipe, *, control: bool = False):
        self._control = control
        self.network = Split(parent, recipe.stages)
        self.progress = Progress()
        self._parent, self._material, self._recipe = parent, material, recipe
        self._random = torch.Generator().manual_seed(recipe.seed)
        weights = self.network.learning()
        self._optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=recipe.weight_decay)
        self._known = torch.stack([logits_of(self.network, view) for view in material.clean_features])
        # The number of steps is only known epoch by epoch, so that the rate falls once an epoch.
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, recipe.epochs)

    def run(self, keep: Callable[[], None] = lambda: None, tell: Callable[[str], None] = lambda _: None) -> None:
        """Train the epochs that are left. `keep` is called after each, when `state` may be read."""
        while self.progress.epoch < self._recipe.epochs:
            losses = [
                self._step(batch) for batch in epoch_of(self._material.miners, self._material.newest, self._random)
            ]
            self._schedule.step()
            self.progress.epoch += 1
            text = f"epoch {self.progress.epoch} of {self._recipe.epochs}: loss {np.mean(losses):.3f}"
            if not self._control:
                self.progress.watched.append(self._watch())
                text += f", right under PGD-3 at one level {self.progress.watched[-1]:.0%}"
            tell(text)
            keep()

    def _step(self, batch: list[int]) -> float:
        material = self._material
        places = torch.tensor(batch)
        view = int(torch.randint(2, (1,), generator=self._random))
        at = material.photo[places]
        seen = [material.clean_features[view, at], material.perturbed_features[view, places]]
        before = functional.log_softmax(self._known[view, at], dim=1)
        loss = torch.stack([self._loss(features, before, material.labels[at]) for features in seen]).sum()
        if self._recipe.fresh:
            loss = loss + self._fresh_loss(at[:_FRESH_IMAGES])
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        return float(loss.detach())

    def _loss(self, features: torch.Tensor, before: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self.network.head(features)
        now = functional.log_softmax(logits, dim=1)
        divergence = functional.kl_div(now, before, log_target=True, reduction="batchmean")
        return functional.cross_entropy(logits, labels) + divergence

    def _fresh_loss(self, at: torch.Tensor) -> torch.Tensor:
        clean = as_images(self._material.clean[at.numpy()]).to(self._known.device)
        labels = self._material.labels[at]
        if self._control:
            return functional.cross_entropy(self.network(clean), labels)
        start = (2 * torch.rand(clean.shape, generator=self._random) - 1).to(clean.device) / LEVELS
        point = (clean + start).clamp(0, 1).requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(self.network(point), labels), point)
        moved = point.detach() + 1.25 / LEVELS * gradient.sign()
        moved = moved.clamp(clean - 1 / LEVELS, clean + 1 / LEVELS).clamp(0, 1)
        return functional.cross_entropy(self.network(moved), labels)

    def _watch(self) -> float:
        few = self._material.clean[:_WATCHED]
        labels = self._material.labels[:_WATCHED].cpu().numpy()
        network = self.network.as_classifier(self._parent, sha256=self._parent.sha256)
        return 1 - float(pgd(network, few, labels, level=1, steps=3, seed=self._recipe.seed).flipped.mean())

    def state(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        return {
            "network": self.network.state(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": self._random.get_state(),
            "epoch": self.progress.epoch,
            "watched": list(self.progress.watched),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same parent, material and recipe."""
        self.network.load(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._random.set_state(state["random"])
        self.progress = Progress(state["epoch"], list(state["watched"]))
