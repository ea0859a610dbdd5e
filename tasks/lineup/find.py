"""A target's network, found by its name or its digest and loaded. Weights are kept in the cache by digest."""

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.errors import ModelError
from perturb.schemas.settings import ClassifierSettings, Settings, WeightsSpec
from perturb.schemas.target import Target
from perturb.sinks.targets.cache import as_classifier, cached_weights
from perturb.sinks.targets.registry import Registry


def classifier_of_digest(settings: Settings, sha256: str, *, input_size: int = 0) -> Classifier:
    """Return the network with these weights: the configured one, one of its siblings, or a target of the registry.

    Raises ModelError that names the digest where none is known.
    """
    own = load_classifier(settings.classifier)
    if own.sha256 == sha256:
        return own if input_size in (0, own.height) else load_classifier(settings.classifier, input_size=input_size)
    target = _target(settings, sha256)
    if target is None:
        raise ModelError(
            f"no network with weights {sha256} is known: neither classifier.name ({own.name}) nor a target of "
            f"{settings.store} has them; `perturb targets add` adds it"
        )
    return load_target(settings, target, input_size=input_size)


# A target never changes, so that what was found once stays known.
_found: dict[tuple[str, str], Target] = {}


def _target(settings: Settings, sha256: str) -> Target | None:
    known = _found.get((settings.store, sha256))
    if known is None and (target := Registry.open(settings).by_digest(sha256)) is not None:
        known = _found[settings.store, sha256] = target
    return known


def load_target(settings: Settings, target: Target, *, input_size: int = 0) -> Classifier:
    """Return a target's network. Raises ModelError where its weights are missing, changed or do not fit."""
    loaded = load_classifier(_settings_of(settings, target, input_size))
    if loaded.sha256 != target.sha256:
        raise ModelError(
            f"target {target.name!r} has weights {target.sha256}, but {target.weights!r} gives {loaded.sha256} here"
        )
    if loaded.num_classes != target.classes:
        raise ModelError(
            f"target {target.name!r} has {target.classes} classes, timm's {target.architecture} {loaded.num_classes}"
        )
    return loaded


def classifier_settings(settings: Settings, name: str) -> ClassifierSettings:
    """Return settings with which a target is loaded as the classifier. Raises ModelError as `load_target`."""
    target = Registry.open(settings).get(name)
    load_target(settings, target)
    return _settings_of(settings, target, 0)


def _settings_of(settings: Settings, target: Target, input_size: int) -> ClassifierSettings:
    if target.weights == "registry":
        weights = WeightsSpec("file", path=cached_weights(settings.cache, target, Registry.open(settings).weights))
    else:
        weights = WeightsSpec.parse(target.weights)
        # A card is anybody's who can write to the store: it names no file of this machine that the settings do not.
        if weights.kind == "file" and weights != settings.classifier.weights:
            raise ModelError(
                f"the weights of target {target.name!r} are the file {target.weights} where it was entered; set "
                "classifier.weights to that file, or enter it as safetensors"
            )
    chosen = as_classifier(target, settings.classifier, weights)
    return chosen.model_copy(update={"input_size": input_size}) if input_size else chosen
