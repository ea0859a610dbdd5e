"""What the operator keeps about exports, outside of everything that a subscriber can read.

`operator/pseudonym.key` keys the pseudonyms where the settings give no key. It lies in the corpus' own store, because
whoever can read there can read the hotkeys themselves. `operator/tiers/{tier}.json` is the definition under which a
tier was first exported: its files never change again, so neither may what they were made by.
"""

import hashlib
import hmac
import json
import re
import secrets

from pydantic import SecretStr

from perturb.schemas.errors import TierError
from perturb.schemas.tier import Tier
from perturb.sinks.formats.merkle import canonical_json
from perturb.sinks.stores.base import ObjectMissing, Store

EXPORTS = "exports/"
KEY_OBJECT = "operator/pseudonym.key"
_RELEASE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_MIN_KEY = 16


def tier_folder(tier: str) -> str:
    """`exports/{tier}/`."""
    return f"{EXPORTS}{tier}/"


def release_key(tier: str, release: str) -> str:
    """The frozen file list of a release. Raises TierError for a name that can't be one."""
    if not _RELEASE.fullmatch(release):
        raise TierError(f"release name {release!r}: use letters, digits, '.', '_' and '-', at most 64, such as 2026-q1")
    return f"{tier_folder(tier)}releases/{release}.json"


def pseudonym_key(store: Store, given: SecretStr | None, *, draw: bool = True) -> bytes:
    """The key of the pseudonyms: the setting's, or one that was drawn for this corpus.

    Where there is none yet, it is drawn and kept; without `draw`, for a mere look, a passing one serves.
    Raises TierError for a setting that is too short to keep a secret.
    """
    if given is not None:
        key = given.get_secret_value().encode()
        if len(key) < _MIN_KEY:
            raise TierError(
                f"pseudonym_key has {len(key)} bytes; give at least {_MIN_KEY} random ones (PERTURB_PSEUDONYM_KEY)"
            )
        return key
    try:
        return store.get(KEY_OBJECT)
    except ObjectMissing:
        if not draw:
            return secrets.token_bytes(32)
        store.put_new(KEY_OBJECT, secrets.token_hex(32).encode())
        return store.get(KEY_OBJECT)


def definition(tier: Tier, key: bytes) -> dict[str, object]:
    """What a tier's files depend on: everything but description, licence and delay. The key stands as a fingerprint."""
    fixed: dict[str, object] = {
        "where": tier.where,
        "columns": list(tier.granted),
        "fraction": tier.fraction,
        "miner": tier.miner,
        "views": tier.views,
    }
    if tier.miner == "pseudonym":
        fixed["key"] = hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest()[:16]
    return fixed


def freeze(store: Store, tier: Tier, key: bytes) -> None:
    """Keep the tier's definition on its first export. Raises TierError if it was exported under another one."""
    place = f"operator/tiers/{tier.name}.json"
    now = definition(tier, key)
    if store.put_new(place, canonical_json(now)):
        return
    before = json.loads(store.get(place))
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    raise TierError(
        f"tier {tier.name} was first exported with other {', '.join(changed)}, and exported files never change: "
        f"restore that, give the tier a new name, or delete {tier_folder(tier.name)} and {place} to start over"
    )
