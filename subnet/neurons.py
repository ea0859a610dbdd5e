"""Who is asked in a round: neurons from the metagraph or from a roster, less those that can't or mustn't be asked."""

import logging
import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

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
# After this long without a chain the list is too old to pay anybody by: a day.
MAX_AGE_BLOCKS = 24 * 3600 // SECONDS_PER_BLOCK


@dataclass(frozen=True)
class NeuronList:
    """The neurons of a round. `block` is where the chain was read, None off chain."""

    block: int | None
    neurons: tuple[Neuron, ...]
    skipped: tuple[Skipped, ...]


class MetagraphCache:
    """A metagraph that is read again after `refresh_blocks` blocks, and kept while the chain can't be reached.

    Time runs on the monotonic clock at 12 s a block, so a clock that jumps refreshes neither early nor never.
    """

    def __init__(self, chain: Chain, *, refresh_blocks: int = REFRESH_BLOCKS):
        self._chain = chain
        self._refresh = refresh_blocks
        self._lock = threading.Lock()
        self._held: Metagraph | None = None
        self._read_at = 0.0
        self._tried_at = 0.0

    def current(self) -> Metagraph:
        """Raises SubnetError where nothing is held that is young enough and the chain doesn't answer."""
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
                log.warning("going on with the neurons of block %d, %.0f blocks old: %s", held.block, age, error)
                fresh = held
            else:
                self._read_at = now
            self._tried_at = now
            self._held = fresh or held
            if self._held is None:
                raise SubnetError("the chain gave no metagraph; try again, or check subnet.network")
            return self._held


_caches: dict[tuple[str, int], MetagraphCache] = {}
_caches_lock = threading.Lock()
# A roster is read every round; what is wrong with it is said once.
_warned: set[Skipped] = set()


def metagraph_cache(settings: SubnetSettings) -> MetagraphCache:
    """The process' one cache of the subnet that `settings` name."""
    with _caches_lock:
        key = (settings.network, settings.netuid)
        if key not in _caches:
            _caches[key] = MetagraphCache(open_chain(settings))
        return _caches[key]


def find_neurons(settings: SubnetSettings, *, own_hotkey: str, cache: MetagraphCache | None = None) -> NeuronList:
    """The neurons to ask, and those left out with the reason.

    Left out: ourselves, who serves nothing, malformed hotkeys, addresses that are not public (unless allowed; the
    local network implies it) and, with `merge_shared`, all but one of those that share a coldkey or an IP.
    Raises SettingsError without a roster on the local network; SubnetError where the chain or the roster is unusable
    or nobody is left to ask.
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
        raise SubnetError(f"{where} has no neuron to ask ({reasons}); start a miner, or correct the network or roster")
    return NeuronList(block, tuple(kept), tuple(skipped))


def find_validators(settings: SubnetSettings, *, cache: MetagraphCache | None = None) -> frozenset[str]:
    """Hotkeys that may ask a miner: validators of the roster, or holders of a validator permit."""
    if settings.network == LOCAL_NETWORK:
        return local_roster(settings).validators
    metagraph = (cache or metagraph_cache(settings)).current()
    return frozenset(neuron.hotkey for neuron in metagraph.neurons if neuron.validator_permit)


def local_roster(settings: SubnetSettings) -> Roster:
    """The roster of the local network. Raises SettingsError where none is named, SubnetError where it is unusable."""
    if settings.roster is None:
        raise SettingsError(
            "subnet.network is 'local' but subnet.roster is not set; name a TOML file of neurons, let local miners be "
            "started, or set subnet.network to 'finney', 'test' or a ws:// endpoint"
        )
    roster = read_roster(settings.roster)
    for skip in roster.skipped:
        if skip not in _warned:
            _warned.add(skip)
            log.warning("roster %s: %s; skipped", settings.roster, skip.reason)
    return roster


def merge_shared(
    neurons: Iterable[Neuron], *, choice: random.Random | None = None
) -> tuple[list[Neuron], list[Skipped]]:
    """One neuron, drawn anew each time, of every group that shares a coldkey or an IP, directly or through others."""
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
        return "it is ourselves"
    if not neuron.endpoint:
        return "it serves no endpoint"
    if not is_hotkey(neuron.hotkey):
        return f"hotkey {neuron.hotkey[:64]!r} is no ss58 address"
    try:
        parse_endpoint(neuron.endpoint, allow_private=allow_private)
    except AddressRefused as error:
        return str(error)
    return None
