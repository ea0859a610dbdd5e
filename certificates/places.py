"""Subjects by name of the registry: `target:NAME` beside the specs of `certificates/subject.py`."""

from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.tasks.lineup.find import classifier_settings

_PREFIX = "target:"


def located(spec: str, settings: Settings) -> tuple[str, ClassifierSettings]:
    """Return spec and settings with which `load_subject` loads a subject; a target's are those of its weights.

    Raises ModelError for a target that the registry of the configured store does not have.
    """
    if not spec.startswith(_PREFIX):
        return spec, settings.classifier
    chosen = classifier_settings(settings, spec.removeprefix(_PREFIX))
    return chosen.name, chosen
