"""The classifier: its pixel contract, its weights, and numbers that don't depend on how it is asked."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.labels import imagenet_label, imagenet_labels
from perturb.models.weights import file_digest, weights_file
from perturb.schemas.errors import ModelError
from perturb.schemas.settings import ClassifierSettings, WeightsSpec

LITE0 = ClassifierSettings(device="cpu")


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load_classifier(LITE0)


@pytest.mark.parametrize(("photo", "expected"), [(skimage.data.coffee(), "espresso"), (skimage.data.chelsea(), "cat")])
def test_sees_what_is_there(lite0: Classifier, photo: np.ndarray, expected: str) -> None:
    label = int(lite0.logits(lite0.prepare(photo)[None])[0].argmax())
    assert expected in lite0.label_name(label)


def test_pixel_contract_is_timms_own_transform(lite0: Classifier) -> None:
    from timm.data import create_transform

    photo = skimage.data.astronaut()
    transform = create_transform((3, 224, 224), is_training=False, interpolation="bicubic", mean=(0.5,) * 3,
                                 std=(0.5,) * 3, crop_pct=0.875)  # fmt: skip
    tensor = transform(Image.fromarray(photo))
    pixels = lite0.prepare(photo)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert torch.allclose(torch.from_numpy(pixels).permute(2, 0, 1) / 255, tensor * 0.5 + 0.5, atol=1e-6)
    with torch.inference_mode():
        expected = lite0.module.net(tensor[None])[0].numpy()
    assert np.allclose(lite0.logits(pixels[None])[0], expected, atol=1e-4)


def test_float32_is_near_float64(lite0: Classifier) -> None:
    pixels = np.stack([lite0.prepare(photo) for photo in (skimage.data.coffee(), skimage.data.rocket())])
    single, double = lite0.logits(pixels), lite0.exact_logits(pixels)
    assert single.dtype == np.float32
    assert double.dtype == np.float64
    # `perturb.models.prediction.DOUBLE_PRECISION_BAND` rests on this.
    assert np.abs(single - double).max() < 2e-4


def test_gradients_reach_the_pixels_and_not_the_weights(lite0: Classifier) -> None:
    image = torch.from_numpy(lite0.prepare(skimage.data.coffee())).permute(2, 0, 1)[None] / 255
    image.requires_grad_(True)
    lite0.module(image).max().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in lite0.module.parameters())


def test_digest_is_of_the_weights_file(lite0: Classifier) -> None:
    file = weights_file("tf_efficientnet_lite0", WeightsSpec("package"))
    assert file is not None
    assert lite0.sha256 == file_digest(file)


def test_loaded_once(lite0: Classifier) -> None:
    assert load_classifier(LITE0.model_copy(update={"persistence": False})) is lite0


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_file(lite0: Classifier, tmp_path: Path, suffix: str) -> None:
    path = save(lite0.module.net.state_dict(), tmp_path / f"lite0{suffix}")
    loaded = load_classifier(ClassifierSettings(weights=str(path), device="cpu"))
    pixels = lite0.prepare(skimage.data.coffee())[None]
    assert np.array_equal(loaded.logits(pixels), lite0.logits(pixels))
    assert loaded.sha256 == file_digest(path)


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def test_a_file_of_the_robustness_library_is_read_without_its_second_copy(lite0: Classifier, tmp_path: Path) -> None:
    state = lite0.module.net.state_dict()
    mean, std = (values.view(3, 1, 1) for values in (lite0.module.mean, lite0.module.std))
    wrapped = {
        "module.normalizer.new_mean": mean,
        "module.normalizer.new_std": std,
        **{f"module.model.{name}": tensor for name, tensor in state.items()},
        "module.attacker.normalize.new_mean": mean,
        "module.attacker.normalize.new_std": std,
        **{f"module.attacker.model.{name}": tensor for name, tensor in state.items()},
    }
    path = tmp_path / "robust.pth"
    torch.save({"model": wrapped, "epoch": 3}, path)
    loaded = load_classifier(ClassifierSettings(weights=str(path), device="cpu"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.net.state_dict().items())
    other = tmp_path / "other.pth"
    torch.save({"model": wrapped | {"module.normalizer.new_mean": mean + 0.1}}, other)
    with pytest.raises(ModelError, match=r"module\.normalizer\.new_mean is .*, the network's mean is"):
        load_classifier(ClassifierSettings(weights=str(other), device="cpu"))


@pytest.mark.parametrize(
    ("mean", "std", "network"),
    [
        ("0.mean", "0.std", "1."),
        ("module.normalize.mean", "module.normalize.std", "module.model."),
        ("mu", "sigma", ""),
    ],
)
def test_a_normalisation_in_front_of_the_network_is_compared_and_left_out(
    lite0: Classifier, tmp_path: Path, mean: str, std: str, network: str
) -> None:
    state = lite0.module.net.state_dict()
    front = {mean: lite0.module.mean.reshape(1, 3, 1, 1), std: lite0.module.std.reshape(1, 3, 1, 1)}
    path, other = tmp_path / "in-front.pth", tmp_path / "other.pth"
    torch.save(front | {f"{network}{name}": tensor for name, tensor in state.items()}, path)
    loaded = load_classifier(ClassifierSettings(weights=str(path), device="cpu"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.net.state_dict().items())
    torch.save(front | {std: front[std] * 2} | {f"{network}{name}": tensor for name, tensor in state.items()}, other)
    with pytest.raises(ModelError, match=f"{std} is .*, the network's std is"):
        load_classifier(ClassifierSettings(weights=str(other), device="cpu"))


def test_weights_that_give_nan_are_an_error(lite0: Classifier, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in lite0.module.net.state_dict().items()}
    state["classifier.bias"][7] = float("nan")
    broken = load_classifier(ClassifierSettings(weights=str(save(state, tmp_path / "nan.pth")), device="cpu"))
    with pytest.raises(ModelError, match="not a finite number"):
        broken.logits(lite0.prepare(skimage.data.coffee())[None])


def test_random_weights_are_those_of_the_seed() -> None:
    name = "mobilenetv3_small_050"
    first, again, other = (
        load_classifier(ClassifierSettings(name=name, weights=weights, batch_size=size, device="cpu"))
        for weights, size in (("random:3", 1), ("random:3", 2), ("random:4", 1))
    )
    assert first is not again
    assert first.sha256 == again.sha256 != other.sha256


def test_input_size_overrides_the_networks_own() -> None:
    large = load_classifier(ClassifierSettings(input_size=320, device="cpu"))
    assert large.prepare(skimage.data.astronaut()).shape == (320, 320, 3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"name": "tf_efficientnet_lite9"},
            r"'tf_efficientnet_lite9' is not a timm model name.*near it: tf_efficientnet",
        ),
        ({"name": "resnet18.no_such_tag", "weights": "random:0"}, "not a timm model: Invalid pretrained tag"),
        ({"name": "tf_efficientnet_b5"}, "no package ships weights for classifier 'tf_efficientnet_b5'.*local file"),
        ({"weights": "/nowhere/b5.pth"}, "no such file; accepted: 'package', 'hub', 'random:SEED'"),
        ({"device": "cuda:99"}, "torch sees . CUDA devices"),
        ({"name": "vit_tiny_patch16_224", "weights": "random:0", "input_size": 512}, "can't take 3 x 512 x 512"),
    ],
)
def test_what_cannot_be_loaded_says_what_can(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_classifier(ClassifierSettings(**{"device": "cpu", **settings}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no weights at all", "can't be read"),
        (b"", "can't be read"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path: Path, content: bytes, says: str, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        load_classifier(ClassifierSettings(weights=str(path), device="cpu"))


def test_a_file_of_another_network_names_the_tensor(lite0: Classifier, tmp_path: Path) -> None:
    state = dict(lite0.module.net.state_dict())
    state["classifier.weight"] = torch.zeros(10, 1280)
    with pytest.raises(ModelError, match=r"classifier.weight has shape \(10, 1280\), the network needs \(1000, 1280\)"):
        load_classifier(ClassifierSettings(weights=str(save(state, tmp_path / "ten.pth")), device="cpu"))


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ModelError, match="can't be read"):
        load_classifier(ClassifierSettings(weights=str(tmp_path / "hostile.pth"), device="cpu"))
    assert not (tmp_path / "ran").exists()


def test_labels_and_shapes_out_of_range(lite0: Classifier) -> None:
    with pytest.raises(
        ModelError, match="label 1000 is outside the classes of tf_efficientnet_lite0; accepted: 0 to 999"
    ):
        lite0.check_label(1000)
    with pytest.raises(IndexError, match="class -1 does not exist"):
        imagenet_label(-1)
    with pytest.raises(ValueError, match=r"accepted: uint8 of \(N, \*\(224, 224, 3\)\)"):
        lite0.logits(np.zeros((1, 100, 100, 3), np.uint8))


def test_labels_are_imagenets() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert [label.index for label in labels] == list(range(1000))
    assert (labels[0].name, labels[0].synset) == ("tench", "n01440764")
    assert "golden retriever" in labels[207].names
    assert labels[207].gloss.startswith("an English breed")
    assert all(label.gloss and label.names for label in labels)
