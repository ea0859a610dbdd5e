"""What a target and its ancestors were trained on, as their cards say."""

from collections.abc import Iterator
from datetime import date

from perturb.schemas.target import Target
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.pairs import NONE_TRAINED


def lineage(registry: Registry, target: Target) -> Iterator[Target]:
    """Yield a target, its parent, and so on. Raises ModelError where an ancestor is missing."""
    seen = set()
    one: Target | None = target
    while one is not None and one.name not in seen:
        seen.add(one.name)
        yield one
        one = None if one.parent is None else registry.get(one.parent)


def held_out_below(registry: Registry, target: Target) -> int:
    """Return the place (`split_place`) before which neither the target nor an ancestor was trained on a photograph."""
    recipes = [one.recipe or {} for one in lineage(registry, target)]
    return min(
        (int(recipe["held_out_below"]) for recipe in recipes if "held_out_below" in recipe), default=NONE_TRAINED
    )


def days_trained_on(registry: Registry, target: Target) -> list[list[date]]:
    """Return the days that the target, and each of its ancestors, was hardened on."""
    recipes = [one.recipe or {} for one in lineage(registry, target)]
    return [[date.fromisoformat(day) for day in recipe["days"]] for recipe in recipes if "days" in recipe]


def is_hardened(target: Target) -> bool:
    """Return whether the card says what the target was trained on."""
    return "held_out_below" in (target.recipe or {})


def first_of(registry: Registry, target: Target) -> Target:
    """Return the first generation of a target: the ancestor without a parent."""
    return list(lineage(registry, target))[-1]
