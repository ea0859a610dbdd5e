"""The line-up in force, read from the log. No network is loaded."""

from perturb.schemas.line_up import LineUp
from perturb.schemas.settings import Settings
from perturb.sinks.log.log import Log
from perturb.sinks.targets.line_up import LineUps
from perturb.sinks.targets.registry import Registry
from perturb.subnet.keys import load_keypair
from perturb.subnet.trust import load_trust


def read_line_up(settings: Settings) -> LineUp | None:
    """Return the line-up in force, or None while there is none. Raises CorpusError for a log that is damaged."""
    return open_line_ups(settings)[1].newest()[0]


def open_line_ups(settings: Settings) -> tuple[Registry, LineUps]:
    """Return the registry and the line-ups that trusted validators signed. Raises as `load_keypair`."""
    # Before the trust is loaded: it counts the own key only where there is one.
    load_keypair(settings.subnet)
    registry = Registry.open(settings)
    return registry, LineUps(Log(registry.store, trust=load_trust(settings.subnet)))
