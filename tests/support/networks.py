"""Small torch networks on 32 x 32 images, as subjects of certificates: `tests.support.networks:small` and others."""

import torch
from torch import nn

from perturb.certificates.subject import TorchNetwork

SIDE = 32
CLASSES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _convolutional(classes: int = 10, *, seed: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = (nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(24 * 6 * 6, classes))


class _Masked(nn.Module):
    """Rounds its input to 16 levels, so that every gradient is zero."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net((images * 15).round() / 15)
        return logits


class _Random(nn.Module):
    """Adds noise, so that no two passes agree."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images + 0.05 * torch.randn_like(images))
        return logits


class _Undefined(nn.Module):
    """Returns NaN."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(images) * torch.nan
        return logits


def _network(module: nn.Module, names: tuple[str, ...] = CLASSES) -> TorchNetwork:
    return TorchNetwork(module, SIDE, SIDE, class_names=names)


def small() -> TorchNetwork:
    return _network(_convolutional())


def retrained() -> TorchNetwork:
    return _network(_convolutional(seed=4))


def two_classes() -> TorchNetwork:
    return _network(_convolutional(2), CLASSES[:2])


def masked() -> TorchNetwork:
    return _network(_Masked(_convolutional()))


def random() -> TorchNetwork:
    return _network(_Random(_convolutional()))


def undefined() -> TorchNetwork:
    return _network(_Undefined(_convolutional()))


def distribution() -> TorchNetwork:
    return _network(nn.Sequential(_convolutional(), nn.Softmax(dim=1)))
