"""The public random beacon that chooses the sample: a round of drand's quicknet, verified offline.

A round's signature is a BLS signature over its number, so nobody knows it before the round and anybody can check it
afterwards. It is checked by what it is for in time-lock encryption: a text that is encrypted for the round opens with
the round's signature and with no other.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.schemas.errors import SettingsError

CHAIN_HASH = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
GENESIS = datetime(2023, 8, 23, 15, 9, 27, tzinfo=UTC)
PERIOD = timedelta(seconds=3)
# A plan is public for at least so long before the round that chooses its sample.
DELAY = timedelta(seconds=60)
# The randomness of a plan without a beacon: the evaluator could try plans until the sample suits.
NO_RANDOMNESS = hashlib.sha256(b"no beacon").digest()


if TYPE_CHECKING:
    from perturb.subnet.chain import Chain


class Pulse(BaseModel):
    """One round of the beacon: its number and its signature, 96 hex digits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    round: int = Field(gt=0, lt=2**63)
    signature: str = Field(pattern=r"^[0-9a-f]{96}$")

    @property
    def randomness(self) -> bytes:
        """The sha256 of the signature, 32 bytes."""
        return hashlib.sha256(bytes.fromhex(self.signature)).digest()


def round_after(moment: datetime) -> int:
    """Return the first round whose time is `DELAY` or more after `moment`."""
    wait = max(moment + DELAY - GENESIS, timedelta())
    return 1 + -(-wait // PERIOD)


def time_of(number: int) -> datetime:
    """Return the time, UTC, at which a round is published."""
    return GENESIS + (number - 1) * PERIOD


def is_genuine(pulse: Pulse) -> bool:
    """Return whether the signature is quicknet's for that round; about 10 ms."""
    from bittensor_core import decrypt_with_signature, encrypt_at_round

    sealed, _ = encrypt_at_round(b"perturb", pulse.round)
    try:
        return bool(decrypt_with_signature(sealed, pulse.signature) == b"perturb")
    except ValueError:
        return False


def obtain(source: str, number: int, *, chain: "Chain | None" = None) -> Pulse:
    """Return round `number` from a JSON file, from an HTTP relay (`https://…`), or from the chain ("chain").

    Raises SettingsError where it can't be had, is another round, or has a signature that is not the beacon's.
    """
    if source == "chain":
        found = _of_chain(number, chain)
    elif source.startswith(("http://", "https://")):
        found = _of_relay(source, number)
    else:
        found = _parsed(_read(Path(source)), source)
    if found.round != number:
        raise SettingsError(f"--beacon {source} gives round {found.round}; the plan needs round {number}")
    if not is_genuine(found):
        raise SettingsError(f"--beacon {source}: the signature of round {number} is not that of drand's quicknet")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"--beacon {path} can't be read ({error.strerror}); accepted: none, chain, an HTTP relay, or a JSON file "
            'such as {"round": 1000, "signature": "…"}'
        ) from error


def _parsed(text: bytes, source: str) -> Pulse:
    try:
        return Pulse.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise SettingsError(
            f'--beacon {source} is not a round of drand; accepted: {{"round": NUMBER, "signature": 96 hex digits}}'
        ) from error


def _of_relay(url: str, number: int) -> Pulse:
    import httpx

    place = f"{url.rstrip('/')}/{CHAIN_HASH}/public/{number}"
    try:
        answer = httpx.get(place, timeout=20, follow_redirects=False).raise_for_status()
    except httpx.HTTPError as error:
        wait = (time_of(number) - datetime.now(UTC)).total_seconds()
        when = f"; round {number} is published in {wait:.0f} s" if wait > 0 else ""
        raise SettingsError(f"--beacon {url} gave no round {number} ({type(error).__name__}){when}") from error
    return _parsed(answer.content, url)


def _of_chain(number: int, chain: "Chain | None") -> Pulse:
    if chain is None:
        raise SettingsError(
            "--beacon chain needs a chain, and subnet.network is 'local'; accepted: none, a file, a relay"
        )
    signature = chain.beacon_signature(number)
    if signature is None:
        raise SettingsError(f"the chain does not have round {number} of the beacon: not yet, or no longer; use a relay")
    return Pulse(round=number, signature=signature)
