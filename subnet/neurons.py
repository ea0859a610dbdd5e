"""The neurons of a round: those of the metagraph or of a roster, without those that cannot or must not be contacted."""

import functools
import logging
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.addresses import AddressRefused, parse_endpoint
from perturb.subnet.chain import Chain, Metagraph, open_chain
from perturb.subnet.keys import LOCAL_NETWORK, is_hotkey
from perturb.subnet.roster import Roster, Skipped, read_roster

log = logging.getLogger(__name__)

SECONDS_PER_BLOCK = 12
REFRESH_BLOCKS = 25
# After a day without the chain the list of neurons is too old to compute weights from.
MAX_AGE_BLOCKS = 24 * 3600 // SECONDS_PER_BLOCK


@dataclass(frozen=True)
class NeuronList:
    """The neurons of a round. `block` is the block at which the chain was read, None on the local network."""

    block: int | None
    neurons: tuple[Neuron, ...]
    skipped: tuple[Skipped, ...]


class MetagraphCache:
    """A metagraph that is read again after `refresh_blocks` blocks, and kept while the chain cannot be reached.

    Blocks are counted on the monotonic clock, at 12 s each, so that a jump of the system clock has no effect.
    """

    def __init__(self, chain: Chain, *, refresh_blocks: int = REFRESH_BLOCKS):
        self._chain = chain
        self._refresh = refresh_blocks
        self._lock = threading.Lock()
        self._held: Metagraph | None = None
        self._read_at = 0.0
        self._tried_at = 0.0

    def current(self) -> Metagraph:
        """Return the metagraph. Raises SubnetError where the chain does not answer and the held one is too old."""
        with self._lock:
            now = time.monotonic()
            held = self._held
            if held is not None and now - self._tried_at < self._refresh * SECONDS_PER_BLOCK:
                return held
            try:
                fresh = self._chain.metagraph(newer_than=held.block if held else None)
            except SubnetError as error:
                age = (now - self._read_at) / SECONDS_PER_BLOCK
                if held is None or age > MAX_AGE_BLOCKS:
                    raise
                log.warning("continuing with the neurons of block %d, %.0f blocks old: %s", held.block, age, error)
                fresh = held
            else:
                self._read_at = now
            self._tried_at = now
            self._held = fresh or held
            if self._held is None:
                raise SubnetError("the chain gave no metagraph; try again, or check subnet.network")
            return self._held


def metagraph_cache(settings: SubnetSettings) -> MetagraphCache:
    """Return the cache of the subnet that `settings` name; one process has one for each subnet."""
    with _opening:
        return _cache_of(settings.network, settings.netuid)


_opening = threading.Lock()


@functools.cache
def _cache_of(network: str, netuid: int) -> MetagraphCache:
    return MetagraphCache(open_chain(SubnetSettings(network=network, netuid=netuid)))


def find_neurons(settings: SubnetSettings, *, own_hotkey: str, cache: MetagraphCache | None = None) -> NeuronList:
    """Return the neurons to send a challenge to, and the skipped ones with the reason.

    Skipped: our own neuron, neurons without an endpoint, malformed hotkeys, addresses that are not public (unless
    allowed; the local network implies it) and, with `merge_shared`, all but one of those that share a coldkey or an IP.
    Raises SettingsError without a roster on the local network; SubnetError where the chain or the roster is unusable
    or no neuron is left.
    """
    if settings.network == LOCAL_NETWORK:
        roster = local_roster(settings)
        block, candidates, skipped = None, roster.neurons, list(roster.skipped)
        where = f"roster {settings.roster}"
    else:
        metagraph = (cache or metagraph_cache(settings)).current()
        block, candidates, skipped = metagraph.block, metagraph.neurons, []
        where = f"netuid {settings.netuid} on {settings.network!r} at block {metagraph.block}"
    allow_private = settings.allow_private_addresses or settings.network == LOCAL_NETWORK
    kept: list[Neuron] = []
    for neuron in candidates:
        reason = _exclusion(neuron, own_hotkey=own_hotkey, allow_private=allow_private)
        if reason is None:
            kept.append(neuron)
        else:
            skipped.append(Skipped(neuron.uid, neuron.hotkey, reason))
    if settings.merge_shared:
        kept, merged = merge_shared(kept)
        skipped += merged
    if not kept:
        reasons = "; ".join(sorted({skip.reason for skip in skipped})[:5]) or "it lists none"
        raise SubnetError(
            f"{where} has no neuron to ask ({reasons}); start a miner, or correct subnet.network or subnet.roster"
        )
    return NeuronList(block, tuple(kept), tuple(skipped))


def find_validators(settings: SubnetSettings, *, cache: MetagraphCache | None = None) -> frozenset[str]:
    """Return the hotkeys that may send challenges: validators of the roster, or holders of a validator permit."""
    if settings.network == LOCAL_NETWORK:
        return local_roster(settings).validators
    metagraph = (cache or metagraph_cache(settings)).current()
    return frozenset(neuron.hotkey for neuron in metagraph.neurons if neuron.validator_permit)


def local_roster(settings: SubnetSettings) -> Roster:
    """Return the roster of the local network. Raises SettingsError without one, SubnetError where it is unusable."""
    if settings.roster is None:
        raise SettingsError(
            "subnet.network is 'local' but subnet.roster is not set; name a TOML file of neurons in perturb.toml or "
            "PERTURB_SUBNET__ROSTER, start local miners, or set subnet.network to 'finney', 'test' or a ws:// endpoint"
        )
    roster = read_roster(settings.roster)
    for skip in roster.skipped:
        _warn_once(settings.roster, skip)
    return roster


@functools.cache
def _warn_once(roster: Path, skip: Skipped) -> None:
    # A roster is read in every round; one line in the log for each wrong entry is enough.
    log.warning("roster %s: %s; skipped", roster, skip.reason)


def merge_shared(
    neurons: Iterable[Neuron], *, choice: random.Random | None = None
) -> tuple[list[Neuron], list[Skipped]]:
    """Return one neuron of every group that shares a coldkey or IP, directly or through others, and the skipped ones.

    Each call draws anew, from `choice` or the system's random numbers.
    """
    rng = choice or random.SystemRandom()
    groups: dict[str, list[Neuron]] = {}
    for neuron in neurons:
        marks = {f"ip {neuron.endpoint.rpartition(':')[0]}"}
        if neuron.coldkey:
            marks.add(f"coldkey {neuron.coldkey}")
        joined = [neuron]
        for mark in marks:
            joined += [member for member in groups.get(mark, ()) if member not in joined]
        for member in joined:
            marks.add(f"ip {member.endpoint.rpartition(':')[0]}")
            if member.coldkey:
                marks.add(f"coldkey {member.coldkey}")
        for mark in marks:
            groups[mark] = joined
    kept: list[Neuron] = []
    skipped: list[Skipped] = []
    for group in {id(group): group for group in groups.values()}.values():
        chosen = rng.choice(group)
        kept.append(chosen)
        skipped += [
            Skipped(member.uid, member.hotkey, f"shares a coldkey or IP with uid {chosen.uid}, which was drawn")
            for member in group
            if member is not chosen
        ]
    return sorted(kept, key=lambda neuron: neuron.uid), skipped


def _exclusion(neuron: Neuron, *, own_hotkey: str, allow_private: bool) -> str | None:
    if neuron.hotkey == own_hotkey:
        return "it is our own neuron"
    if not neuron.endpoint:
        return "it serves no endpoint"
    if not is_hotkey(neuron.hotkey):
        return f"hotkey {neuron.hotkey[:64]!r} is not an ss58 address"
    try:
        parse_endpoint(neuron.endpoint, allow_private=allow_private)
    except AddressRefused as error:
        return str(error)
    return None
