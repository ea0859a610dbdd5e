"""Checks each part of the pipeline by using it once, and says what to do about each that is not ready."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perturb.schemas.errors import PerturbError
from perturb.schemas.settings import Settings


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
        ("source", _check_source),
        ("classifier", _check_classifier),
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


def _check_source(settings: Settings) -> str:
    from perturb.sources import open_source

    return open_source(settings).check()


def _check_classifier(settings: Settings) -> str:
    from perturb.models.classifier import load_classifier

    classifier = load_classifier(settings.classifier)
    size = f"{classifier.height}x{classifier.width}"
    return f"{classifier.name} at {size} on {classifier.device}, weights sha256 {classifier.sha256[:12]}…"


def _check_judge(settings: Settings) -> str:
    from perturb.models.judge.judge import load_judge

    judge = load_judge(settings.judge, cache=settings.cache)
    if judge.sha256 is None:
        return "none: labels are compared by index only, records say so"
    (judgement,) = judge.belongs([(207, "dog")])
    return f"{judge.name} says 'golden retriever' is a dog: {judgement.holds}, weights sha256 {judge.sha256[:12]}…"


def _check_identity(settings: Settings) -> str:
    from perturb.subnet.keys import load_keypair

    return f"this validator is {load_keypair(settings.subnet).ss58_address}"


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
