"""Which images are measured, in which order, and the seeds of their attacks: all follow from plan and beacon."""

import hashlib
from collections.abc import Iterable


def sample(identities: Iterable[str], *, count: int, plan_sha256: str, randomness: bytes) -> list[str]:
    """Return the `count` identities with the smallest sha256(randomness || plan || identity), the smallest first."""
    return sorted(identities, key=lambda identity: (_draw(randomness, plan_sha256, identity), identity))[:count]


def attack_seed(identity: str, level: int, *, plan_sha256: str, randomness: bytes) -> int:
    """Return the seed of AutoAttack on one image at one level, 0 to 2**31 - 1.

    It is the first four bytes, without the sign, of sha256(randomness || plan || identity || "autoattack" || level).
    """
    digest = _draw(randomness, plan_sha256, identity, b"autoattack" + level.to_bytes(2, "big"))
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def _draw(randomness: bytes, plan_sha256: str, identity: str, rest: bytes = b"") -> bytes:
    return hashlib.sha256(randomness + bytes.fromhex(plan_sha256) + bytes.fromhex(identity) + rest).digest()
