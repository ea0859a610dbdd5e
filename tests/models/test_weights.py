"""Files of weights: the same network whatever wraps it, or a sentence; never other weights without a word."""

import argparse
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from perturb.models.weights import load_file
from perturb.schemas.errors import ModelError

State = dict[str, torch.Tensor]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), head=nn.Conv2d(4, 4, 3)))


STATE: State = network(1).state_dict()


def prefixed(word: str, state: State = STATE) -> State:
    return {word + name: tensor for name, tensor in state.items()}


def shuffled(state: State) -> State:
    return dict(random.Random(3).sample(list(state.items()), len(state)))


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"epoch": 3, "state_dict": STATE, "optimizer": {"state": {}}},
        {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
        {"model_ema": STATE},
        {"net": STATE, "accuracy": np.float64(77.1), "args": argparse.Namespace(lr=0.1)},
        prefixed("module."),
        prefixed("_orig_mod.module."),
        prefixed("student.1."),
        shuffled(prefixed("model.")),
        {name: tensor for name, tensor in STATE.items() if "num_batches" not in name},
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "model_best.pth.tar", "w.PTH", "w.ckpt", "w.safetensors"])
def test_weights_are_found_in_what_people_wrap_them_in(content: dict[str, Any], name: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / name)
    net = network(2)
    load_file(net, tmp_path / name)
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in net.state_dict().items())


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "weights.bin")
    net = network(2)
    load_file(net, tmp_path / "weights.bin")
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in net.state_dict().items())


SWAPPED = {"bn1.weight": "bn1.bias", "bn1.bias": "bn1.weight"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"state_dict": STATE, "state_dict_ema": STATE},
            "holds 2 sets of weights, 'state_dict', 'state_dict_ema'; save",
        ),
        (
            {"x." + SWAPPED.get(name, name): tensor for name, tensor in STATE.items()},
            "lacks tensor 'conv.weight' and 7",
        ),
        ({name: STATE[name] for name in STATE if name != "head.bias"}, "lacks tensor 'head.bias'; it has 7 tensors"),
        (STATE | {"total_ops": torch.zeros(1)}, "has an unknown tensor 'total_ops'"),
        (STATE | {"head.bias": torch.zeros(9)}, r"head.bias has shape \(9,\), the network needs \(4,\)"),
        ({"epoch": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        (network(1), "can't be read"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    net = network(2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ModelError, match=says):
        load_file(net, tmp_path / "w.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_only_a_known_file_is_matched_by_order(tmp_path: Path) -> None:
    torch.save(prefixed("other_"), tmp_path / "w.pth")
    net = network(2)
    load_file(net, tmp_path / "w.pth", by_order=True)
    assert torch.equal(net.state_dict()["head.bias"], STATE["head.bias"])
    with pytest.raises(ModelError, match="lacks tensor"):
        load_file(network(2), tmp_path / "w.pth")
