"""Checks each part of the pipeline by using it once, and says what to do about each that is not ready."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perturb.schemas.errors import PerturbError
from perturb.schemas.settings import Settings

if TYPE_CHECKING:
    from perturb.models.judge.judge import LanguageJudge


@dataclass(frozen=True)
class Check:
    """One part: whether it is ready, and what was found or what to do."""

    part: str
    ready: bool
    finding: str
    seconds: float


def check_all(settings: Settings) -> Iterator[Check]:
    """Yield one `Check` for each part as soon as it is known; a part that fails does not stop the next."""
    parts: tuple[tuple[str, Callable[[Settings], str]], ...] = (
        ("store", _check_store),
        ("decoder", _check_decoder),
        ("source", _check_source),
        ("classifier", _check_classifier),
        ("targets", _check_targets),
        ("judge", _check_judge),
        ("identity", _check_identity),
        ("neurons", _check_neurons),
        ("tiers", _check_tiers),
    )
    for part, check in parts:
        started = time.monotonic()
        try:
            ready, finding = True, check(settings)
        except PerturbError as error:
            ready, finding = False, str(error)
        yield Check(part, ready, finding, time.monotonic() - started)


def _check_store(settings: Settings) -> str:
    from perturb.sinks.stores.open import open_store
    from perturb.sinks.stores.probe import require_conditional_writes

    require_conditional_writes(open_store(settings.store, settings.s3), single_writer=settings.single_writer)
    if settings.single_writer:
        return f"{settings.store} is reachable and writable; single_writer is set: never run two writers at once"
    return f"{settings.store} is reachable, writable, and refuses a second writer"


def _check_decoder(settings: Settings) -> str:
    from perturb.sandbox.pool import shared_pool
    from perturb.sandbox.requirement import describe, require_walls

    require_walls(settings.decoder_walls)
    return f"images of strangers are decoded behind walls; {describe(shared_pool().standing())}"


def _check_source(settings: Settings) -> str:
    from perturb.sources import open_source

    return open_source(settings).check()


def _check_classifier(settings: Settings) -> str:
    from perturb.models.classifier import load_classifier

    classifier = load_classifier(settings.classifier)
    size = f"{classifier.height}x{classifier.width}"
    return f"{classifier.name} at {size} on {classifier.device}, weights sha256 {classifier.sha256[:12]}…"


def _check_targets(settings: Settings) -> str:
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.lineup.draw import TargetDraw

    draw = TargetDraw(open_store(settings.store, settings.s3), settings)
    names = draw.load_all()
    if not names:
        return "no line-up: every round attacks the classifier"
    return f"the line-up of {len(names)} loads: {', '.join(names)}"


def _check_judge(settings: Settings) -> str:
    from perturb.models.judge.judge import LanguageJudge, load_judge

    judge = load_judge(settings.judge, cache=settings.cache)
    if not isinstance(judge, LanguageJudge):
        return "none: labels are compared by index only, records say so"
    (judgement,) = judge.belongs([(207, "dog")])
    return (
        f"{judge.name} says 'golden retriever' is a dog: {judgement.holds}, weights sha256 {judge.model.sha256[:12]}…, "
        + "; ".join(_judge_preparation(judge, settings))
    )


def _judge_preparation(judge: "LanguageJudge", settings: Settings) -> Iterator[str]:
    from perturb.models.judge.label_tables import other_tables

    if judge.tables is None:
        yield "labels not prepared: the first `perturb produce` does it, or `perturb judge --precompute`"
    else:
        yield f"labels prepared, {len(judge.tables.scored)} pairs known"
    unused = other_tables(settings.cache, model=judge.model.sha256)
    if unused:
        names = ", ".join(path.name for path in unused)
        yield f"not used, because of other weights or prompts: {names} in {settings.cache}"
    if judge.cache is not None and (others := judge.cache.of_others()):
        yield f"{others} judgements in {judge.cache.path} are of other weights or prompts and not used"


def _check_identity(settings: Settings) -> str:
    from perturb.subnet.keys import load_keypair
    from perturb.subnet.trust import load_trust

    own = load_keypair(settings.subnet).ss58_address
    others = sorted((load_trust(settings.subnet).hotkeys or frozenset()) - {own})
    trusted = f"; trusted as well: {', '.join(others)}" if others else ""
    public = settings.subnet.wallet_name is None and settings.subnet.hotkey_uri is not None
    return f"this validator is {own}{' (a development key, which others may know)' if public else ''}{trusted}"


def _check_neurons(settings: Settings) -> str:
    from perturb.subnet.keys import load_keypair
    from perturb.subnet.neurons import find_neurons

    if settings.subnet.network == "local" and settings.subnet.roster is None:
        return "local network without a roster: `perturb produce --local-miners 4` starts its own miners"
    found = find_neurons(settings.subnet, own_hotkey=load_keypair(settings.subnet).ss58_address)
    return f"{len(found.neurons)} neurons to ask, {len(found.skipped)} left out"


def _check_tiers(settings: Settings) -> str:
    from perturb.tasks.tiers.tier_file import load_tiers

    return ", ".join(load_tiers(settings.tiers))
