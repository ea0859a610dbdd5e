"""A miner's part of the model track: committing to a network before its weights are published."""

import time
from pathlib import Path

from perturb.schemas.commitment import Committed, ModelCommitment
from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.neurons import local_roster
from perturb.subnet.roster import add_commitment


def commit_model(settings: SubnetSettings, weights: bytes, url: str) -> str:
    """Commit the configured hotkey to a file of weights that will be at `url`; return where that stands.

    That is the ID of the extrinsic, on the local network the roster. Raises CommitmentRefused for an unusable URL, and
    SubnetError where the chain refuses.
    """
    keypair = load_keypair(settings)
    text = ModelCommitment.of(weights, hotkey=keypair.ss58_address, url=url).text()
    if settings.network != LOCAL_NETWORK:
        return open_chain(settings).commit_text(keypair, text)
    roster = _roster(settings)
    add_commitment(roster, Committed(hotkey=keypair.ss58_address, text=text, at=int(time.time())))
    return str(roster)


def own_commitment(settings: SubnetSettings) -> Committed | None:
    """Return what the configured hotkey committed to last, or None. Raises SubnetError as `commit_model`."""
    hotkey = load_keypair(settings).ss58_address
    if settings.network == LOCAL_NETWORK:
        _roster(settings)
        found = local_roster(settings).commitments_at(int(time.time()))
    else:
        chain = open_chain(settings)
        found = chain.read_texts(chain.head())
    return next((one for one in found if one.hotkey == hotkey), None)


def _roster(settings: SubnetSettings) -> Path:
    if settings.roster is None:
        raise SettingsError(
            "subnet.roster is not set; on the local network commitments stand in the roster, a TOML file with a "
            "[[neuron]] of this hotkey: name it in perturb.toml or PERTURB_SUBNET__ROSTER"
        )
    return settings.roster
