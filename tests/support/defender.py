"""A miner of the model track as a process: it makes weights, commits to them, and serves them until its stdin closes.

    python -m tests.support.defender KIND URI FOLDER ROSTER [COPIED]

`honest` trains the embedded network against perturbations of its own. `masked` multiplies its logits, so that gradients
vanish. `copy` takes the file at COPIED, an address.
"""

import sys
import urllib.request
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from perturb.miner.commitment import commit_model
from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.settings import ClassifierSettings, SubnetSettings
from perturb.tasks.lineup.add import as_safetensors
from tests.support.attacked_corpus import photographs
from tests.support.weights_server import serving

FILE = "weights.safetensors"
SIDE = 96
_PHOTOGRAPHS, _STEPS, _BLEND = 12, 6, 0.15


def weights_of(kind: str, copied: str = "") -> bytes:
    """Return the file of a kind of defender."""
    if kind == "copy":
        with urllib.request.urlopen(copied) as reply:
            data: bytes = reply.read()
        return data
    network = load_classifier(ClassifierSettings(input_size=SIDE))
    state = {name: tensor.clone() for name, tensor in network.module.net.state_dict().items()}
    if kind == "masked":
        return as_safetensors({k: v * 10_000 if k.startswith("classifier.") else v for k, v in state.items()})
    trained = trained_against_fgsm(network)
    return as_safetensors({k: (v + _BLEND * (trained[k] - v)).to(v.dtype) for k, v in state.items()})


def trained_against_fgsm(network: Classifier) -> dict[str, torch.Tensor]:
    """Return the state after some steps on photographs, their mirror images, and both perturbed by one level."""
    pixels = np.stack(photographs(network, _PHOTOGRAPHS))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = torch.cat([images, images.flip(3)])
    module = network.module.requires_grad_(True)
    with torch.no_grad():
        labels = module(images).argmax(dim=1)
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(_STEPS):
        point = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(module(point), labels), point)
        perturbed = (images + gradient.sign() / 255).clamp(0, 1)
        loss = cross_entropy(module(torch.cat([perturbed, images])), torch.cat([labels, labels]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: tensor.detach() for name, tensor in network.module.net.state_dict().items()}


def main() -> None:
    """Commit, and serve until stdin closes."""
    kind, uri, folder, roster = sys.argv[1:5]
    data = weights_of(kind, *sys.argv[5:])
    with serving(Path(folder)) as address:
        url = f"{address}/{FILE}"
        settings = SubnetSettings.model_validate({"hotkey_uri": uri, "roster": roster})
        commit_model(settings, data, url)
        (Path(folder) / FILE).write_bytes(data)
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
