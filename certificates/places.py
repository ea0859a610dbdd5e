"""Subjects by name of the registry: `target:NAME` beside the specs of `certificates/subject.py`."""

from dataclasses import replace
from pathlib import Path

from perturb.certificates.subject import Subject, load_subject
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.sinks.targets.registry import Registry
from perturb.tasks.harden.lineage import is_hardened
from perturb.tasks.lineup.find import classifier_settings

TARGET = "target:"


def open_subject(spec: str, settings: Settings, *, classes: Path | None = None) -> Subject:
    """Return the subject that `spec` names; a target goes by its name in the registry.

    Raises what `located` and `load_subject` raise.
    """
    subject = load_subject(*located(spec, settings), classes=classes)
    if not spec.startswith(TARGET):
        return subject
    name = spec.removeprefix(TARGET)
    return replace(subject, description=subject.description.model_copy(update={"name": name}))


def located(spec: str, settings: Settings) -> tuple[str, ClassifierSettings]:
    """Return spec and settings with which `load_subject` loads a subject; a target's are those of its weights.

    Raises ModelError for a target that the registry of the configured store does not have.
    """
    if not spec.startswith(TARGET):
        return spec, settings.classifier
    chosen = classifier_settings(settings, spec.removeprefix(TARGET))
    return chosen.name, chosen


def newest_hardened(settings: Settings) -> str | None:
    """Return the name of the target that was hardened last, whatever its gates said; None where none ever was."""
    registry = Registry.open(settings)
    hardened = [one for one in map(registry.get, registry.names()) if is_hardened(one)]
    return max(hardened, key=lambda one: (one.created_at, one.name)).name if hardened else None
