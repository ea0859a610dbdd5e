"""The evaluation of networks: figures against a plain loop over torch and timm, intervals, and stopped runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.errors import ModelError, SourceError, TierError
from perturb.schemas.image import Pixels, encode_png, pixel_identity
from perturb.schemas.settings import ClassifierSettings
from perturb.tasks.evaluate import resume
from perturb.tasks.evaluate.data import Subject, check_classes, subjects_of_export, subjects_of_pool
from perturb.tasks.evaluate.evaluate import as_json, differences, from_json, measure, summarise
from perturb.tasks.evaluate.resume import measured


@pytest.fixture(scope="module")
def network() -> Classifier:
    return load_classifier(ClassifierSettings(device="cpu"))


@pytest.fixture(scope="module")
def subjects(network: Classifier) -> list[Subject]:
    """Two photographs that the network knows, each with two versions: noise, and an answer of PGD."""
    from perturb.attacks import load_attack
    from perturb.schemas.bounds import Bounds

    found = []
    for name, label in (("coffee", 967), ("chelsea", 282)):
        clean = network.prepare(np.asarray(getattr(skimage.data, name)()))
        noisy = (clean + np.random.default_rng(0).integers(0, 2, clean.shape)).clip(0, 255).astype(np.uint8)
        flipped = load_attack("pgd")(network, clean, label, Bounds(), deadline=1e18, seed=0)
        found.append(Subject(pixel_identity(clean), clean, label, (noisy, flipped)))
    return found


def plain_logits(network: Classifier, pixels: Pixels) -> Any:
    """A loop as a trainer writes it: timm's network in double precision, its mean and standard deviation."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    net.load_state_dict(network.module.net.state_dict())
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(3, 1, 1).double() for name in ("mean", "std"))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).double() / 255
    with torch.no_grad():
        return net.double().eval()(((image - mean) / std)[None])[0]


@pytest.mark.slow
def test_the_figures_are_those_of_a_plain_loop(network: Classifier, subjects: list[Subject]) -> None:
    found = summarise([measure(network, subject, levels=()) for subject in subjects])
    top1, nll, right, margins = [], [], [], []
    for subject in subjects:
        logits = plain_logits(network, subject.pixels)
        top1.append(float(logits.argmax() == subject.label))
        nll.append(float(torch.nn.functional.cross_entropy(logits[None], torch.tensor([subject.label]))))
        for version in subject.versions:
            changed = plain_logits(network, version)
            others = torch.cat([changed[: subject.label], changed[subject.label + 1 :]])
            margins.append(float(others.max() - changed[subject.label]))
            right.append(float(changed.argmax() == subject.label))
    assert found["clean_top1"]["mean"] == pytest.approx(np.mean(top1), abs=1e-9)
    assert found["clean_nll"]["mean"] == pytest.approx(np.mean(nll), abs=1e-9)
    assert found["perturbed_margin"]["mean"] == pytest.approx(np.mean(margins), abs=1e-9)
    assert found["perturbed_accuracy"]["mean"] == pytest.approx(np.mean(right), abs=1e-9)
    assert found["perturbed_accuracy"]["count"] == 4
    assert found["all_versions_hold"]["mean"] == 0
    assert found["flip_rate"]["mean"] > 0


@pytest.mark.slow
def test_fresh_attacks_break_an_undefended_network(network: Classifier, subjects: list[Subject]) -> None:
    results = [measure(network, subject, levels=(1, 2)) for subject in subjects]
    assert [one.broken_at for one in results] == [1, 1]
    found = summarise(results)
    assert (found["pgd_accuracy_1"]["mean"], found["pgd_accuracy_2"]["mean"]) == (0, 0)
    assert all(value["low"] <= value["mean"] <= value["high"] for value in found.values())
    assert [from_json(as_json(one)) for one in results] == results


@pytest.mark.slow
def test_networks_are_compared_on_the_same_photographs(network: Classifier, subjects: list[Subject]) -> None:
    results = [measure(network, subject, levels=()) for subject in subjects]
    same = differences(results, results)
    assert all(value["mean"] == value["low"] == value["high"] == 0 for value in same.values())
    with pytest.raises(ValueError, match="measured on different photographs"):
        differences(results, results[::-1])


@pytest.mark.slow
def test_a_stopped_run_goes_on(
    network: Classifier, subjects: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[Any]:
        return list(measured(network, subjects, levels=(), seed=0, cache=tmp_path))

    first = next(iter(measured(network, subjects, levels=(), seed=0, cache=tmp_path)))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text() + '{"place": "half a li')
    asked: list[str] = []
    monkeypatch.setattr(
        resume,
        "measure",
        lambda network, subject, **o: asked.append(subject.identity) or measure(network, subject, **o),
    )
    whole = run()
    assert whole[0] == first
    assert asked == [subjects[1].identity]


def _export(folder: Path, rows: list[dict[str, Any]]) -> Path:
    place = folder / "parquet/data/test"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "2026-01-01-00000.parquet")
    return folder


def test_an_export_is_read_by_photograph(tmp_path: Path, subjects: list[Subject]) -> None:
    rows = [
        {
            "original": {"bytes": encode_png(subject.pixels), "path": None},
            "perturbed": {"bytes": encode_png(version), "path": None},
            "true_label": subject.label,
        }
        for subject in subjects
        for version in subject.versions
    ]
    found = subjects_of_export(_export(tmp_path / "whole", rows))
    assert [one.identity for one in found] == [one.identity for one in subjects]
    for one, other in zip(found, subjects, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one.versions, other.versions, strict=True))
    assert len(subjects_of_export(tmp_path / "whole", limit=1)) == 1
    photographs = [
        {
            "image": {"bytes": encode_png(subject.pixels), "path": None},
            "adversarial": [{"bytes": encode_png(version), "path": None} for version in subject.versions],
            "true_label": subject.label,
        }
        for subject in subjects
    ]
    by_photo = subjects_of_export(_export(tmp_path / "photographs", photographs) / "parquet")
    assert [one.identity for one in by_photo] == [one.identity for one in found]
    for one, other in zip(by_photo, found, strict=True):
        assert (one.label, len(one.versions)) == (other.label, len(other.versions))
        assert all(np.array_equal(a, b) for a, b in zip(one.versions, other.versions, strict=True))
    without = [{name: value for name, value in row.items() if name != "true_label"} for row in rows]
    with pytest.raises(TierError, match="lacks true_label: its tier does not grant"):
        subjects_of_export(_export(tmp_path / "less", without))
    with pytest.raises(TierError, match="has no files of split 'validation'"):
        subjects_of_export(tmp_path / "whole", split="validation")


def test_a_network_with_other_classes_than_the_data_is_refused(subjects: list[Subject]) -> None:
    check_classes(subjects, "mine", 1000)
    with pytest.raises(ModelError, match="mine has 10 classes, the data have class 967: they are not of one data set"):
        check_classes(subjects, "mine", 10)


def test_a_pool_needs_classes(tmp_path: Path) -> None:
    (tmp_path / "pool/n01440764").mkdir(parents=True)
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "pool/n01440764/a.png")
    (subject,) = subjects_of_pool(tmp_path / "pool", limit=5)
    assert subject.label == 0
    (tmp_path / "plain").mkdir()
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "plain/a.png")
    with pytest.raises(SourceError, match="has a known class; name folders by WordNet ids"):
        subjects_of_pool(tmp_path / "plain", limit=5)
