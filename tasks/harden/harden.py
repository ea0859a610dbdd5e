"""The step: sealed days of the corpus -> a challenger in the registry, with its report. It is never drawn by itself.

Killed while it trains, it has written nothing that counts, and a later call goes on after the last epoch.
"""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from typing import Any

import torch
from pydantic import BaseModel

from perturb.schemas.errors import ModelError
from perturb.schemas.image import pixel_identity
from perturb.schemas.report_card import TargetReport
from perturb.schemas.settings import Settings
from perturb.schemas.target import Target
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.arms import Arms, material_of, train_arms
from perturb.tasks.harden.lineage import held_out_below
from perturb.tasks.harden.measured import ATTACKED, measure_target
from perturb.tasks.harden.pairs import (
    FEWEST,
    Parts,
    Photograph,
    TooFewPhotographs,
    chosen_days,
    divide,
    read_photographs,
    warnings,
)
from perturb.tasks.harden.train import Recipe
from perturb.tasks.lineup.add import add_first_generation, add_state, as_safetensors
from perturb.tasks.lineup.find import load_target

RECIPE = "harden-1"
MINUTES = 6.0
# Pairs that both arms together train on in a minute of two cores. A constant, because the same days must give the same
# weights: `minutes` chooses a number of epochs, not a time on the clock.
_PAIRS_A_MINUTE = 2000
_MOST_EPOCHS = 8


class HardenSummary(BaseModel):
    """What was made: the challenger, what it was trained on, its report, and what to be warned of."""

    target: str
    sha256: str
    parent: str
    trained_photographs: int
    trained_pairs: int
    share: float
    warnings: tuple[str, ...]
    report: TargetReport


def harden(
    settings: Settings,
    *,
    days: Sequence[date] | None = None,
    parent: str | None = None,
    name: str | None = None,
    minutes: float = MINUTES,
    fresh: bool = False,
    seed: int = 0,
    fewest: int = FEWEST,
    attacked: int = ATTACKED,
    tell: Callable[[str], None] = lambda _: None,
) -> HardenSummary:
    """Train a challenger on sealed days (the newest 28 by default), measure it, and enter both in the registry.

    `parent` is by default the newest generation that the days' perturbations were made against. The same days, parent,
    seed and number of torch's threads give the same weights. `minutes` chooses the number of epochs, as two cores would
    need them. Raises CorpusError for days that are not sealed, TooFewPhotographs for fewer than `fewest`, and
    ModelError for an unknown parent and a name that is taken.
    """
    registry = Registry.open(settings)
    first = add_first_generation(registry, settings)
    known = None if parent is None else registry.get(parent)
    if name is not None and name in registry.names():
        raise ModelError(f"target {name!r} exists; choose another name")
    corpus = Corpus.open(settings)
    tell("reading sealed days")
    days = chosen_days(corpus, days)
    origin = load_target(settings, known or first)
    photographs = read_photographs(corpus, registry, days=days, size=(origin.height, origin.width))
    if len(photographs) < fewest:
        raise TooFewPhotographs(
            f"{len(photographs)} photographs of {origin.height} x {origin.width} pixels were perturbed on these days; "
            f"at least {fewest} are needed, with fewer an interval says nothing: harden on more days"
        )
    known = known or _newest(registry, photographs, first)
    origin = load_target(settings, known)
    parts = divide(photographs, below=held_out_below(registry, known))
    warned = tuple(warnings(photographs))
    pairs = sum(len(one.versions) for one in parts.train)
    epochs = min(max(round(minutes * _PAIRS_A_MINUTE / max(pairs, 1)), 1), _MOST_EPOCHS)
    recipe = Recipe(epochs=epochs, fresh=fresh, seed=seed)
    tell(
        f"hardening {known.name} on {len(parts.train)} photographs with {pairs} pairs, {epochs} epochs; "
        f"{len(parts.test)} photographs are held out"
    )
    folder = settings.cache.expanduser() / "harden" / _key(known, parts, recipe)
    material = material_of(origin, parts.train, recipe.stages)
    arms = train_arms(origin, material, parts.validation, recipe, folder=folder, tell=tell)
    facts = _facts(corpus, days, parts, recipe, arms, minutes)
    made = _enter(registry, known, name, arms, facts)
    report = registry.report(made.name)
    if report is None:
        report = measure_target(
            settings, made, photographs=parts.test, training=parts.train, attacked=attacked, tell=tell
        )
    shutil.rmtree(folder, ignore_errors=True)
    return HardenSummary(
        target=made.name,
        sha256=made.sha256,
        parent=known.name,
        trained_photographs=len(parts.train),
        trained_pairs=pairs,
        share=arms.share,
        warnings=warned,
        report=report,
    )


def _newest(registry: Registry, photographs: Sequence[Photograph], first: Target) -> Target:
    """Return the target of the highest generation that perturbations were made against."""
    names = {version.target for one in photographs for version in one.versions} & set(registry.names())
    return max((registry.get(name) for name in names), key=lambda one: (one.generation or 0, one.name), default=first)


def _key(parent: Target, parts: Parts, recipe: Recipe) -> str:
    """Return what a training is kept under: the digest of everything that it follows from."""
    seen = [parent.sha256, repr(recipe), str(torch.get_num_threads()), torch.__version__]
    for photograph in (*parts.train, *parts.validation):
        seen += [photograph.identity, *(pixel_identity(one.pixels) for one in photograph.versions)]
    return hashlib.sha256("|".join(seen).encode()).hexdigest()


def _facts(
    corpus: Corpus, days: Sequence[date], parts: Parts, recipe: Recipe, arms: Arms, minutes: float
) -> dict[str, Any]:
    """Return the recipe as the target's card keeps it."""
    manifests = [corpus.manifest(day) for day in days]
    counts = {name: len(getattr(parts, name)) for name in ("train", "validation", "test")}
    return {
        "name": RECIPE,
        "parameters": asdict(recipe) | {"minutes": minutes, "share": arms.share},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "days": {str(one.day): one.merkle_root for one in manifests if one is not None},
        "photographs": counts,
        "pairs": sum(len(one.versions) for one in parts.train),
        "held_out_below": parts.held_out_below,
        "watched": list(arms.watched),
        "control_sha256": hashlib.sha256(as_safetensors(arms.control.state())).hexdigest(),
        "code_version": version("perturb"),
    }


def _enter(registry: Registry, parent: Target, name: str | None, arms: Arms, facts: dict[str, Any]) -> Target:
    """Return the challenger, which is entered unless the same training entered it before."""
    state = arms.hardened.state()
    made = registry.by_digest(hashlib.sha256(as_safetensors(state)).hexdigest())
    if made is None:
        made = add_state(registry, state, of=parent, name=name or _free_name(registry, parent), recipe=facts)
    registry.add_control(made, as_safetensors(arms.control.state()))
    return made


def _free_name(registry: Registry, parent: Target) -> str:
    stem = parent.name.removesuffix(f"-g{parent.generation}")
    name = f"{stem}-g{(parent.generation or 0) + 1}"
    taken = set(registry.names())
    return next(one for one in (name, *(f"{name}.{number}" for number in range(2, 10_000))) if one not in taken)
