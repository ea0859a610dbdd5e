"""Which commitments count: those that had stood for long enough, of hotkeys that are neurons now."""

from dataclasses import dataclass
from datetime import datetime

from perturb.schemas.commitment import Committed
from perturb.schemas.settings import Settings
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK
from perturb.subnet.neurons import SECONDS_PER_BLOCK, local_roster

# Miners of the local network serve their weights on this machine.
_LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Commitments:
    """Commitments as they were at `until`: a block, on the local network seconds since 1970. The earliest is first."""

    until: int
    found: tuple[Committed, ...]


def read_commitments(settings: Settings, now: datetime) -> Commitments:
    """Return the commitments as they were `model_track.age_hours` before `now`.

    Nobody can commit to a network after having seen it: before the commitment is that old, the weights are private.
    Raises SubnetError where the chain cannot be reached or the roster cannot be read.
    """
    age = settings.model_track.age_hours * 3600
    if settings.subnet.network == LOCAL_NETWORK:
        until = max(0, int(now.timestamp() - age))
        # Without a roster the line starts miners of its own, which commit to nothing.
        roster = None if settings.subnet.roster is None else local_roster(settings.subnet)
        found = [] if roster is None else roster.commitments_at(until)
        neurons = () if roster is None else roster.neurons
    else:
        chain = open_chain(settings.subnet)
        until = max(0, chain.head() - round(age / SECONDS_PER_BLOCK))
        found = chain.read_texts(until)
        graph = chain.metagraph()
        neurons = graph.neurons if graph is not None else ()
    hotkeys = {neuron.hotkey for neuron in neurons}
    ours = sorted((one for one in found if one.hotkey in hotkeys), key=lambda one: (one.at, one.hotkey))
    return Commitments(until, tuple(ours))


def private_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the addresses that weights may be fetched from though they are not public."""
    return _LOOPBACK if settings.subnet.network == LOCAL_NETWORK else ()
