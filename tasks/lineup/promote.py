"""Changes of the line-up: a target comes in, leaves, or the last change is undone. Each is an entry of the log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from perturb.schemas.errors import ModelError
from perturb.schemas.line_up import MIN_FIRST_SHARE, LineUp, Share
from perturb.schemas.settings import Settings
from perturb.schemas.target import Target
from perturb.sinks.targets.line_up import LineUps
from perturb.sinks.targets.registry import Registry
from perturb.subnet.keys import load_keypair
from perturb.tasks.lineup.add import add_first_generation
from perturb.tasks.lineup.find import load_target
from perturb.tasks.lineup.in_force import open_line_ups


@dataclass(frozen=True)
class Standing:
    """The line-up in force (None before the first promotion), its key, its shares, and the first generation's name."""

    line_up: LineUp | None
    key: str | None
    first: str
    shares: tuple[Share, ...]


def read_standing(registry: Registry, line_ups: LineUps, settings: Settings) -> Standing:
    """Return the line-up in force. The configured classifier is entered as the first generation where none was."""
    entry = line_ups.entry_at(line_ups.log.newest())
    if entry is not None:
        line_up = line_ups.of(entry)
        return Standing(line_up, entry.entry.key, line_up.first, line_up.shares)
    first = add_first_generation(registry, settings)
    return Standing(None, None, first.name, (Share(target=first.name, sha256=first.sha256, share=1),))


def promote(settings: Settings, name: str, *, share: float = 0.5, ungated: bool = False) -> LineUp:
    """Put a target into the line-up with `share` of the challenges; the others keep their proportions.

    Its newest report must have passed its gates; with `ungated` none is asked, and the line-up says so. The first
    generation keeps at least 0.25. A target that is in the line-up gets the new share. Raises ModelError where the
    target is unknown, was refused or does not load, and for a share that cannot be given.
    """
    registry, line_ups = open_line_ups(settings)
    standing = read_standing(registry, line_ups, settings)
    target = registry.get(name)
    if not ungated:
        _require_passed(registry, target)
    load_target(settings, target)
    shares = with_share(standing.shares, standing.first, target, share)
    return _change(line_ups, settings, standing, "promotion", name, shares, gates="not asked" if ungated else "passed")


def retire(settings: Settings, name: str) -> LineUp:
    """Take a target out of the line-up. Raises ModelError for the first generation, and for one that is not in it."""
    registry, line_ups = open_line_ups(settings)
    standing = read_standing(registry, line_ups, settings)
    return _change(line_ups, settings, standing, "retirement", name, without(standing.shares, standing.first, name))


def rollback(settings: Settings) -> LineUp:
    """Restore the line-up before the newest change that is not undone yet. Raises ModelError where there is none."""
    registry, line_ups = open_line_ups(settings)
    standing = read_standing(registry, line_ups, settings)
    if standing.line_up is None:
        raise ModelError("there is no change of the line-up to undo")
    restored = None if standing.line_up.undo is None else line_ups.read(standing.line_up.undo)
    if restored is not None:
        shares = restored.shares
    else:
        first = registry.get(standing.first)
        shares = (Share(target=first.name, sha256=first.sha256, share=1),)
    if shares == standing.shares:
        raise ModelError("every change of the line-up is undone already")
    undo = None if restored is None else restored.undo
    return _change(line_ups, settings, standing, "rollback", standing.line_up.target, shares, undo=undo)


def with_share(shares: Iterable[Share], first: str, target: Target, share: float) -> tuple[Share, ...]:
    """Return shares in which `target` has `share` (above 0, at most 0.75, or 1 for the first generation).

    The others keep their proportions, except that the first generation has at least 0.25. Raises ModelError for a share
    that cannot be given.
    """
    largest = 1.0 if target.name == first else 1 - MIN_FIRST_SHARE
    smallest = MIN_FIRST_SHARE if target.name == first else 0.0
    if not smallest <= share <= largest or share == 0:
        raise ModelError(
            f"--share {share:g} cannot be given to {target.name!r}; accepted: {'from' if smallest else 'above'} "
            f"{smallest:g} to {largest:g} (the first generation {first!r} keeps at least {MIN_FIRST_SHARE:g})"
        )
    others = [one for one in shares if one.target != target.name]
    new = Share(target=target.name, sha256=target.sha256, share=share)
    return _sorted([new, *_scaled(others, 1 - share, first)])


def without(shares: Iterable[Share], first: str, name: str) -> tuple[Share, ...]:
    """Return the shares without one target; the others keep their proportions. Raises ModelError as `retire`."""
    there = list(shares)
    if name == first:
        raise ModelError(f"target {name!r} is the first generation, which stays in the line-up")
    others = [one.target for one in there if one.target != first]
    if name not in others:
        raise ModelError(f"target {name!r} is not in the line-up; accepted: {', '.join(others) or 'none, it has one'}")
    return _sorted(_scaled([one for one in there if one.target != name], 1.0, first))


def _scaled(shares: list[Share], total: float, first: str) -> list[Share]:
    """Return shares that sum to `total` in the given proportions, the first generation's at least 0.25."""
    if total == 0:
        return []
    scale = total / sum(one.share for one in shares)
    found = [one.model_copy(update={"share": one.share * scale}) for one in shares]
    kept = next((one for one in found if one.target == first), None)
    if kept is None or kept.share >= MIN_FIRST_SHARE:
        return found
    others = [one for one in found if one is not kept]
    rest = _scaled(others, total - MIN_FIRST_SHARE, "")
    return [kept.model_copy(update={"share": MIN_FIRST_SHARE}), *rest]


def _sorted(shares: Iterable[Share]) -> tuple[Share, ...]:
    return tuple(sorted((one for one in shares if one.share > 0), key=lambda one: one.target))


def _require_passed(registry: Registry, target: Target) -> None:
    report = registry.report(target.name)
    if report is None:
        raise ModelError(
            f"target {target.name!r} was not measured; run `perturb targets measure {target.name}`, or give --ungated "
            "for a network whose gates do not apply, such as one of another architecture"
        )
    if not report.verdict.passed:
        raise ModelError(
            f"target {target.name!r} did not pass its gates ({report.verdict}); --ungated promotes it all the same"
        )


def _change(
    line_ups: LineUps,
    settings: Settings,
    standing: Standing,
    event: Literal["promotion", "retirement", "rollback"],
    name: str,
    shares: tuple[Share, ...],
    *,
    gates: str | None = None,
    undo: str | None = None,
) -> LineUp:
    line_up = LineUp(
        number=1 if standing.line_up is None else standing.line_up.number + 1,
        event=event,
        target=name,
        gates=gates,
        first=standing.first,
        shares=shares,
        previous=standing.key,
        undo=undo if event == "rollback" else standing.key,
    )
    line_ups.append(line_up, signer=load_keypair(settings.subnet), at=datetime.now(UTC))
    return line_up
