"""Files and names of models that others chose run no code and load nothing from elsewhere."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from perturb.models.classifier import load_classifier
from perturb.models.weights import load_file
from perturb.schemas.errors import ModelError
from perturb.schemas.settings import ClassifierSettings, WeightsSpec


class Gadget:
    """Pickled, it is a call of `os.mkdir`, which a reader of pickles makes."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_file_of_weights_runs_no_code(form: str, tmp_path: Path) -> None:
    target, marker = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"conv.weight": Gadget(marker)}
    if form == "torch":
        torch.save(content, target)
    else:
        target.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=r"weights\.pth.* can't be read"):
        load_file(torch.nn.Linear(2, 2), target)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Gadget(marker)))
    assert marker.exists(), "the gadget works"


@pytest.mark.parametrize("name", ["hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/tmp/x", "../x", "os.system"])
def test_a_record_names_a_classifier_of_timm_or_none(name: str) -> None:
    with pytest.raises(ModelError, match="is not a timm model name"):
        load_classifier(ClassifierSettings(name=name, weights=WeightsSpec("random", seed=1)))
