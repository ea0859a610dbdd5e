"""A network in two parts, of which the last is trained: the outputs of the first are computed once for all epochs."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from perturb.models.classifier import Classifier, Normalised
from perturb.schemas.bounds import LEVELS
from perturb.schemas.errors import ModelError
from perturb.schemas.image import Pixels

_BATCH = 32
# The parts of a timm EfficientNet before its pooling, in their order.
_PARTS = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")


class Split(nn.Module):
    """A timm EfficientNet in two parts: `trunk` is not trained, so its output is computed once; `head` is trained.

    Raises ModelError for another network, and for a number of `stages` that it does not have.
    """

    def __init__(self, classifier: Classifier, stages: int):
        super().__init__()
        net: Any = copy.deepcopy(classifier.module)
        self.whole: nn.Module = net
        inner = net.net
        if missing := [name for name in _PARTS if not hasattr(inner, name)]:
            raise ModelError(f"{classifier.name} has no {missing[0]!r}; accepted: EfficientNets of timm")
        if not 0 < stages < len(inner.blocks):
            raise ModelError(
                f"{classifier.name} has {len(inner.blocks)} stages; accepted: 1 to {len(inner.blocks) - 1}"
            )
        self._mean, self._std, self._inner = net.mean, net.std, inner
        self._first = nn.Sequential(inner.conv_stem, inner.bn1, *inner.blocks[:-stages])
        self._last = nn.ModuleList([*inner.blocks[-stages:], inner.conv_head, inner.bn2])
        self.eval()

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of float RGB (N, 3, H, W) in 0..1."""
        features: torch.Tensor = self._first((images - self._mean) / self._std)
        return features

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of features."""
        for part in self._last:
            features = part(features)
        logits: torch.Tensor = self._inner.forward_head(features)
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images."""
        return self.head(self.trunk(images))

    def learning(self) -> list[nn.Parameter]:
        """Return the weights that are tuned. All other weights, and all statistics of normalisations, stay the same."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        chosen = [*self._last.parameters(), *self._inner.classifier.parameters()]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def state(self) -> dict[str, torch.Tensor]:
        """Return the network's weights under timm's names."""
        return {name: tensor.detach().clone() for name, tensor in self._inner.state_dict().items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take over the weights that `state` returned."""
        self._inner.load_state_dict(state)

    def as_classifier(self, parent: Classifier, *, sha256: str) -> Classifier:
        """Return a copy of the network, as it is now, as a classifier like `parent`."""
        module = copy.deepcopy(self.whole).eval().requires_grad_(False)
        assert isinstance(module, Normalised)
        return replace(parent, module=module, sha256=sha256)


def can_be_hardened(classifier: Classifier) -> bool:
    """Return whether `Split` knows the network's parts."""
    return all(hasattr(classifier.module.net, name) for name in _PARTS)


def blend(network: nn.Module, before: nn.Module, share: float) -> None:
    """Move the weights of `network` back, to `share` of the way from those of `before` to its own."""
    with torch.no_grad():
        for tuned, old in zip(network.parameters(), before.parameters(), strict=True):
            tuned.copy_(torch.lerp(old, tuned, share))


def as_images(pixels: Pixels) -> torch.Tensor:
    """Return uint8 (N, H, W, 3) as float (N, 3, H, W) in 0..1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / LEVELS


@torch.no_grad()
def features_of(network: Split, pixels: Pixels) -> torch.Tensor:
    """Return the trunk's output for uint8 (N, H, W, 3) and their mirror images, float (2, N, C, h, w)."""
    device = next(network.parameters()).device
    views = (pixels, pixels[:, :, ::-1])
    return torch.stack(
        [
            torch.cat(
                [network.trunk(as_images(view[at : at + _BATCH]).to(device)) for at in range(0, len(view), _BATCH)]
            )
            for view in views
        ]
    )


@torch.no_grad()
def logits_of(network: Split, features: torch.Tensor) -> torch.Tensor:
    """Return the logits of (N, C, h, w) features, computed a few at a time."""
    return torch.cat([network.head(part) for part in torch.split(features, _BATCH)])
