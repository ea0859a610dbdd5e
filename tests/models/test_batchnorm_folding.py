"""Folding leaves no normalisation behind, the same logits, and a network alone that it would change."""

import perturb.models._torchvision  # noqa: F401  # isort: skip
import timm
import torch
from torch import nn

from perturb.models.batchnorm_folding import folded


def test_a_folded_network_gives_the_same_logits_without_its_normalisations() -> None:
    torch.manual_seed(0)
    module = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    fast = folded(module, height=64, width=64)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = module(images)
        assert (fast(images) - expected).abs().max() < 1e-4 * expected.abs().max()
    unfolded = [part for part in fast.modules() if isinstance(part, nn.BatchNorm2d) and "forward" not in vars(part)]
    assert fast is not module
    assert norms
    assert not unfolded


def test_a_network_that_folding_would_change_stays_as_it_is() -> None:
    class Shared(nn.Module):
        """The convolution's output is used beside its normalisation as well."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            made = self.conv(images)
            return (made + self.norm(made)).mean((2, 3))

    module = Shared().eval()
    nn.init.constant_(module.norm.weight, 3.0)
    assert folded(module, height=16, width=16) is module
