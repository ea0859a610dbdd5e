"""The ids that an export shows, and the choice of pairs that a tier's fraction takes.

A miner chooses the pixels of an answer, and readers know the pixels. So a hash of them alone would let a miner choose
its answer's place and whether it is sampled, and would join the tiers of several subscribers. In a tier that does not
show hotkeys, every id, the order of rows and the choice of a fraction are therefore HMAC-SHA256 under the operator's
secret.
"""

import hashlib
import hmac
from dataclasses import dataclass

from perturb.schemas.tier import Tier


def pair_id(original_sha256: str, perturbed_sha256: str) -> str:
    """Return the id of a pair, 32 hex digits, from the pixel identities of its two images.

    It is the same in every tier, so only tiers that show hotkeys may export it.
    """
    return hashlib.sha256(f"{original_sha256}|{perturbed_sha256}".encode()).hexdigest()[:32]


def in_fraction(pair: str, fraction: float, *, key: bytes) -> bool:
    """Return whether a fraction takes a pair: whether its keyed hash, read as a number in 0..1, is below `fraction`.

    It is the same for every tier, so that a smaller fraction is part of a larger one. Without the key nobody can say
    beforehand whether a pair will be taken.
    """
    return int(_keyed(key, "fraction", pair)[:13], 16) < fraction * 16**13


@dataclass(frozen=True)
class Identifiers:
    """The ids of one tier. `key` is the operator's secret; a tier that shows hotkeys does not use it for ids."""

    tier: Tier
    key: bytes

    def sample(self, pair: str) -> str:
        """Return the `sample_id` of a pair, 32 hex digits, from its `pair_id`.

        In a tier that shows hotkeys it is the pair id itself. Else it is valid within this tier only: without the key
        it can be neither computed from the images nor linked to the sample id of another tier.
        """
        return pair if self.tier.shows_hotkeys else _keyed(self.key, "sample", self.tier.name, pair)[:32]

    def photograph(self, original_sha256: str) -> str:
        """Return the id of a photograph, 64 hex digits: the pixel identity where hotkeys are shown, else keyed.

        Rows are ordered by it, and it is the `image_id` of the layout by photograph.
        """
        if self.tier.shows_hotkeys:
            return original_sha256
        return _keyed(self.key, "photograph", self.tier.name, original_sha256)

    def pseudonym(self, hotkey: str) -> str:
        """Return a miner's pseudonym within this tier: 80 bits.

        Without the key it can neither be inverted nor linked to the pseudonym of another tier.
        """
        return "m-" + _keyed(self.key, "pseudonym", self.tier.name, hotkey)[:20]


def _keyed(key: bytes, *parts: str) -> str:
    """64 hex digits. The first part names the purpose; parts hold no zero bytes, which separate them."""
    return hmac.digest(key, "\0".join(parts).encode(), "sha256").hex()
