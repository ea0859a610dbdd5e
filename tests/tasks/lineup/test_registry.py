"""The registry of targets: what is taken in, what is refused, and records that are verified by the digest they name."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save, save_file

from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.schemas.errors import CorpusError, ModelError
from perturb.schemas.image import encode_png
from perturb.schemas.pair import Pair
from perturb.schemas.record import make_record
from perturb.schemas.settings import ClassifierSettings, Settings, WeightsSpec
from perturb.schemas.target import FIRST_GENERATION, Target
from perturb.sinks.targets.registry import Registry
from perturb.tasks.lineup.add import add_file, add_first_generation, add_state
from perturb.tasks.lineup.find import classifier_of_digest, classifier_settings, load_target
from perturb.tasks.verify.reverify import reverify_pairs
from perturb.tasks.verify.round import verify
from perturb.tasks.verify.score import score
from tests.support import verification_rounds as rounds


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    own = ClassifierSettings(persistence=False, device="cpu")
    return Settings(store=str(tmp_path / "store"), cache_dir=tmp_path / "cache", classifier=own)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    made = Registry.open(settings)
    add_first_generation(made, settings)
    return made


def changed_state(by: float) -> dict[str, torch.Tensor]:
    state = load_classifier(ClassifierSettings(device="cpu")).module.net.state_dict()
    return {name: value + by if name == "classifier.bias" else value.clone() for name, value in state.items()}


def test_the_first_generation_is_there_without_being_configured(settings: Settings, registry: Registry) -> None:
    assert registry.names() == [FIRST_GENERATION]
    first = registry.get(FIRST_GENERATION)
    assert (first.generation, first.weights, first.classes) == (0, "package", 1000)
    assert add_first_generation(Registry.open(settings), settings) == first
    assert load_target(settings, first).sha256 == load_classifier(settings.classifier).sha256 == first.sha256


def test_a_generation_is_found_by_its_digest(settings: Settings, registry: Registry) -> None:
    first = registry.get(FIRST_GENERATION)
    made = add_state(registry, changed_state(0.125), of=first, name="lite0-g1", recipe={"name": "test"})
    assert (made.generation, made.parent) == (1, FIRST_GENERATION)
    loaded = classifier_of_digest(settings, made.sha256)
    assert loaded.sha256 == made.sha256
    assert torch.equal(loaded.module.net.state_dict()["classifier.bias"], changed_state(0.125)["classifier.bias"])
    with pytest.raises(ModelError, match=f"no network with weights {'0' * 64} is known: .*`perturb targets add`"):
        classifier_of_digest(settings, "0" * 64)
    key = "targets/lite0-g1/weights.safetensors"
    (Path(settings.store) / key).write_bytes(b"damaged")
    (settings.cache / "targets" / f"{made.sha256}.safetensors").unlink()
    with pytest.raises(ModelError, match=f"{key} is not the file of its card"):
        load_target(settings, made)


def test_what_does_not_fit_is_refused_by_name(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    first = registry.get(FIRST_GENERATION)
    add_state(registry, changed_state(0.25), of=first, name="lite0-g1", recipe={})
    with pytest.raises(ModelError, match="target 'lite0-g1' exists with other weights or another card"):
        add_state(registry, changed_state(0.5), of=first, name="lite0-g1", recipe={})
    with pytest.raises(ModelError, match="target 'lite0-g1' has the same weights as 'copy'"):
        add_state(registry, changed_state(0.25), of=first, name="copy", recipe={})
    facts = {"architecture": "resnet18", "input_size": 224, "classes": 1000, "created_at": datetime.now(UTC)}
    with pytest.raises(ModelError, match="the weights of 'bomb' are not a safetensors file"):
        registry.add(Target(name="bomb", sha256="0" * 64, **facts), (10**10).to_bytes(8, "little") + b"{" + bytes(50))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="are not those that its card names"):
        registry.add(Target(name="other", sha256="0" * 64, **facts), save({"a": torch.zeros(1)}))  # type: ignore[arg-type]
    for content, message in (
        ({"classifier.weight": torch.zeros(3)}, "lacks tensor 'conv_stem.weight'"),
        (
            {name: value[:7] if name == "classifier.bias" else value for name, value in changed_state(0).items()},
            r"the tensor for classifier.bias has shape \(7,\), the network needs \(1000,\)",
        ),
    ):
        save_file({name: value.contiguous() for name, value in content.items()}, tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match=message):
            add_file(registry, settings, tmp_path / "x.safetensors", architecture="tf_efficientnet_lite0", name="x")
    file, lite0 = tmp_path / "y.pth", "tf_efficientnet_lite0"
    torch.save({"state_dict": {f"module.{k}": v for k, v in changed_state(0.75).items()}}, file)
    with pytest.raises(ModelError, match="parent 'nobody' of target 'y' is not in the registry"):
        add_file(registry, settings, file, architecture=lite0, name="y", parent="nobody")
    made = add_file(registry, settings, file, architecture=lite0, name="y")
    assert registry.names() == ["lite0-g0", "lite0-g1", "y"]
    assert load_target(settings, made).sha256 == made.sha256


def test_records_of_both_generations_verify_again(settings: Settings, registry: Registry) -> None:
    """A record is verified by the network whose digest it names, not by the name of its architecture."""
    made = add_state(registry, changed_state(0.125), of=registry.get(FIRST_GENERATION), name="lite0-g1", recipe={})
    own = load_classifier(settings.classifier)
    second = load_target(settings, made)
    small = settings.model_copy(update={"classifier": rounds.SETTINGS.classifier})
    pairs = []
    for network in (rounds.classifier(), load_target(settings, made, input_size=160)):
        asked = rounds.challenge()
        terms = asked.task.model_copy(update={"classifier_sha256": network.sha256})
        task = type(asked.task)(**{**terms.model_dump(), "task_id": terms.digest()})
        asked = type(asked)(asked.round_id, asked.created_at, task, asked.origin, asked.png)
        body = encode_png(rounds.flipped())
        response = replace(rounds.answers([body])[0], body_sha256=hashlib.sha256(body).hexdigest())
        (verdict,) = verify(asked, [response], classifier=network, judge=NoJudge(), settings=small)
        assert verdict.accepted
        points = score(verdict, task, response.response_ms, policy=small.policy)
        record = make_record(asked, response, verdict, points, netuid=26, block=1, validator_hotkey="v")
        pairs.append(Pair(asked.png, response.body, record.model_dump()))
    assert second.sha256 != own.sha256
    assert reverify_pairs(pairs, classifier=own, settings=settings) == [None, None]


def test_weights_that_are_a_file_are_entered_with_it(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    save_file({name: value.contiguous() for name, value in changed_state(1.0).items()}, file)
    own = settings.classifier.model_copy(update={"weights": WeightsSpec("file", path=file)})
    registry = Registry.open(settings)
    first = add_first_generation(registry, settings.model_copy(update={"classifier": own}))
    assert (first.name, first.weights) == ("tf_efficientnet_lite0", "registry")
    assert registry.weights(first) == file.read_bytes()
    pickled = tmp_path / "own.pth"
    torch.save(changed_state(2.0), pickled)
    own = settings.classifier.model_copy(update={"weights": WeightsSpec("file", path=pickled)})
    other = settings.model_copy(update={"store": str(tmp_path / "other"), "classifier": own})
    target = add_first_generation(Registry.open(other), other)
    assert target.weights == str(pickled)
    assert load_target(other, target).sha256 == target.sha256


def test_a_card_is_not_believed(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    """Whoever can write to the store can write a card. It gives no other network, and no file of this machine."""
    first = registry.get(FIRST_GENERATION)
    made = Target(name="other", architecture=first.architecture, sha256="0" * 64, weights="random:0", input_size=224,
                  classes=1000, created_at=datetime.now(UTC))  # fmt: skip
    registry.add(made, None)
    with pytest.raises(ModelError, match=r"target 'other' has weights 0000.*, but 'random:0' gives"):
        classifier_of_digest(settings, "0" * 64)
    file = made.model_copy(update={"name": "file", "sha256": "1" * 64, "weights": str(tmp_path / "secret.pth")})
    registry.add(file, None)
    with pytest.raises(ModelError, match=r"the weights of target 'file' are the file .* where it was entered"):
        classifier_settings(settings, "file")
    card = Path(settings.store) / "targets/file/card.json"
    card.write_bytes((Path(settings.store) / "targets/other/card.json").read_bytes())
    with pytest.raises(CorpusError, match=r"targets/file/card.json is the card of target 'other'"):
        Registry.open(settings).get("file")


def test_a_set_of_weights_is_chosen_and_other_classes_have_names(
    settings: Settings, registry: Registry, tmp_path: Path
) -> None:
    """A checkpoint as training scripts leave it: the weights, their moving average, ten classes."""
    own, average = (
        {
            name: tensor.contiguous()
            for name, tensor in timm.create_model("resnet18", num_classes=10).state_dict().items()
        }
        for _ in range(2)
    )
    torch.save({"model": own, "model_ema": average, "epoch": 3}, tmp_path / "both.pth")
    names = [f"kind {number}" for number in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    arguments = {"architecture": "resnet18", "name": "r18", "classes": tmp_path / "names.txt"}
    with pytest.raises(ModelError, match=r"2 sets of weights, 'model', 'model_ema'.*--set"):
        add_file(registry, settings, tmp_path / "both.pth", **arguments)
    with pytest.raises(ModelError, match="no set of weights 'ema'; accepted: 'model', 'model_ema'"):
        add_file(registry, settings, tmp_path / "both.pth", weights_set="ema", **arguments)
    made = add_file(registry, settings, tmp_path / "both.pth", weights_set="model_ema", **arguments)
    loaded = load_target(settings, made)
    assert (made.classes, made.class_names) == (10, tuple(names))
    assert torch.equal(loaded.module.net.state_dict()["fc.weight"], average["fc.weight"])
    assert [loaded.label_name(index) for index in range(10)] == names
    assert loaded.synset(0) is None
