"""Loading what the playground needs, before it listens."""

from perturb.models.classifier import Classifier, load_classifier
from perturb.models.judge.judge import Judge, NoJudge, load_judge
from perturb.playground.session import Player
from perturb.schemas.play import PlayLimits
from perturb.schemas.settings import Settings
from perturb.schemas.target import target_name
from perturb.sinks.targets.registry import Registry
from perturb.tasks.lineup.find import load_target


def load_player(settings: Settings, limits: PlayLimits, *, judged: bool = True) -> Player:
    """Return a player with the configured classifier first, then the store's targets and `classifier.transfer`.

    Raises ModelError where one cannot be loaded.
    """
    judge: Judge = load_judge(settings.judge, cache=settings.cache) if judged else NoJudge()
    return Player(_networks(settings), judge, settings, limits)


def _networks(settings: Settings) -> dict[str, Classifier]:
    first = load_classifier(settings.classifier)
    networks = {target_name(first.name, first.sha256): first}
    registry = Registry.open(settings)
    for name in registry.names():
        networks.setdefault(name, load_target(settings, registry.get(name)))
    networks |= {name: load_classifier(settings.classifier, name=name) for name in settings.classifier.transfer}
    return networks
