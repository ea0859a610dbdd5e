"""What the operator keeps about exports, where no subscriber can read it.

`operator/pseudonym.key` is the secret of the exports (pseudonyms, sample ids, fractions) if the settings give none. It
is in the corpus' own store, because a reader of that store can read the hotkeys themselves.
`operator/tiers/{tier}.json` is the definition under which a tier was first exported. Exported files never change, so
the definition may not change either.
"""

import hashlib
import hmac
import json
import secrets

from pydantic import SecretStr

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import TierError
from perturb.schemas.tier import DEFAULT_LAYOUTS, Tier
from perturb.sinks.dataset.keys import tier_folder
from perturb.sinks.stores.base import ObjectMissing, Store

KEY_OBJECT = "operator/pseudonym.key"
_MIN_KEY_BYTES = 16


def pseudonym_key(store: Store, given: SecretStr | None, *, create: bool = True) -> bytes:
    """Return the secret of the exports: the setting's, or else the random key that the corpus keeps.

    A corpus without a key gets one. Without `create` (previews, dry runs) nothing is written, and the key returned for
    such a corpus is not kept: which records a fraction takes then changes with each call. Raises TierError for a
    setting of less than 16 bytes.
    """
    if given is not None:
        key = given.get_secret_value().encode()
        if len(key) < _MIN_KEY_BYTES:
            raise TierError(
                f"pseudonym_key has {len(key)} bytes; set {_MIN_KEY_BYTES} or more random bytes (PERTURB_PSEUDONYM_KEY)"
            )
        return key
    try:
        return store.get(KEY_OBJECT)
    except ObjectMissing:
        if not create:
            return secrets.token_bytes(32)
        store.put_new(KEY_OBJECT, secrets.token_hex(32).encode())
        return store.get(KEY_OBJECT)


def definition(tier: Tier, key: bytes) -> dict[str, object]:
    """Return what a tier's files depend on: all but description, licence and delay, and the key as a fingerprint."""
    fixed: dict[str, object] = {
        "where": tier.where,
        "columns": list(tier.granted),
        "fraction": tier.fraction,
        "miner": tier.miner,
        "views": tier.views,
    }
    if set(tier.layouts) != set(DEFAULT_LAYOUTS):
        # Left out otherwise: definitions from before tiers had layouts lack it.
        fixed["layouts"] = sorted(tier.layouts)
    if tier.keyed:
        fixed["key"] = hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest()[:16]
    return fixed


def freeze(store: Store, tier: Tier, key: bytes) -> None:
    """Store the tier's definition at its first export. Raises TierError if it was exported under another definition."""
    place = f"operator/tiers/{tier.name}.json"
    now = definition(tier, key)
    if store.put_new(place, canonical_json(now)):
        return
    try:
        before = json.loads(store.get(place))
    except ValueError as error:
        raise TierError(f"{place} is not valid JSON ({error}); restore it from a copy") from error
    changed = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    raise TierError(
        f"tier {tier.name} was first exported with other {', '.join(changed)}, and exported files never change: "
        "restore the first definition, give the tier a new name, or start over: "
        f"delete {tier_folder(tier.name)} and {place}"
    )
