"""The capacity of one miner."""

from dataclasses import dataclass

from perturb.schemas.settings import MinerSettings

_DEFAULTS = MinerSettings()


@dataclass(frozen=True)
class Limits:
    """The capacity of one miner: `max_concurrent` requests at once, `threads` that run attacks, open connections.

    `header_seconds`, `max_connections` and `max_connections_per_address` are those of `MinerSettings`.
    """

    max_concurrent: int = 2
    threads: int = 1
    header_seconds: float = _DEFAULTS.header_seconds
    max_connections: int = _DEFAULTS.max_connections
    max_connections_per_address: int = _DEFAULTS.max_connections_per_address


DEFAULT_LIMITS = Limits()
