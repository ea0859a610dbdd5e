"""Measuring a target of the registry on the corpus, and keeping its report."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from importlib.metadata import version

from safetensors.torch import load

from perturb.models.classifier import Classifier
from perturb.schemas.errors import ModelError
from perturb.schemas.report_card import TargetReport
from perturb.schemas.settings import Settings
from perturb.schemas.target import Target
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.lineage import days_trained_on, first_of, held_out_below, is_hardened
from perturb.tasks.harden.network import Split
from perturb.tasks.harden.pairs import FEWEST, Photograph, TooFewPhotographs, chosen_days, divide, read_photographs
from perturb.tasks.lineup.find import load_target
from perturb.tasks.targets.gates import judge
from perturb.tasks.targets.measure import Breaks, measure
from perturb.tasks.tiers.grant import split_place

#: Photographs that are attacked anew.
ATTACKED = 24


def measure_target(
    settings: Settings,
    target: Target,
    *,
    photographs: Sequence[Photograph],
    training: Sequence[Photograph] | None,
    attacked: int = ATTACKED,
    standard: Breaks | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TargetReport:
    """Measure a target on `photographs`, keep the report in the registry, and return it.

    A target without a parent is compared with itself. `training` is None where it is not known. Raises ModelError where
    a network that is needed is missing.
    """
    registry = Registry.open(settings)
    parent = target if target.parent is None else registry.get(target.parent)
    first = first_of(registry, target)
    challenger, older = load_target(settings, target), load_target(settings, parent)
    watched = (target.recipe or {}).get("watched")
    tell(f"measuring {target.name} on {len(photographs)} photographs")
    weights = registry.control(target)
    card = measure(
        challenger,
        parent=older,
        first=load_target(settings, first),
        control=None if weights is None else _control(older, weights),
        photographs=[one.held_out() for one in photographs],
        training=None if training is None else [one.pixels for one in training],
        watched=watched,
        stated_sha256=target.sha256,
        attacked=attacked,
        standard=standard,
        tell=tell,
    )
    report = TargetReport(
        target=target.name,
        sha256=target.sha256,
        measured_at=datetime.now(UTC),
        code_version=version("perturb"),
        photographs=len(photographs),
        pairs=sum(len(one.versions) for one in photographs),
        card=card,
        verdict=judge(card),
    )
    registry.add_report(report)
    return report


def measure_on_corpus(
    settings: Settings,
    name: str,
    *,
    days: Sequence[date] | None = None,
    fewest: int = FEWEST,
    attacked: int = ATTACKED,
    standard: Breaks | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TargetReport:
    """Measure the target `name` on photographs of sealed days that neither it nor an ancestor was trained on.

    Raises ModelError for an unknown name, TooFewPhotographs where the days have fewer than
    `fewest`.
    """
    registry = Registry.open(settings)
    target = registry.get(name)
    own = load_target(settings, target)
    corpus = Corpus.open(settings)
    size = (own.height, own.width)
    tell("reading sealed days")
    photographs = read_photographs(corpus, registry, days=chosen_days(corpus, days), size=size)
    if len(photographs) < fewest:
        raise TooFewPhotographs(
            f"{len(photographs)} photographs of {own.height} x {own.width} pixels were perturbed on these days; at "
            f"least {fewest} are needed, with fewer an interval says nothing: measure on more days"
        )
    below = held_out_below(registry, target)
    test = divide(photographs, below=below).test
    training = None
    if is_hardened(target):
        seen = {
            one.identity: one
            for own_days in days_trained_on(registry, target)
            for one in read_photographs(corpus, registry, days=own_days, size=size)
        }
        training = [one for one in seen.values() if split_place(one.identity) >= below]
    elif target.parent is None:
        training = []
    return measure_target(
        settings, target, photographs=test, training=training, attacked=attacked, standard=standard, tell=tell
    )


def _control(parent: Classifier, weights: bytes) -> Classifier:
    network = Split(parent, 1)
    try:
        network.load(load(weights))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the control arm's weights do not fit {parent.name}: {error}") from error
    return network.as_classifier(parent, sha256="0" * 64)
