"""Signing with sr25519 hotkeys, and verification: one signature form, one signed message."""

import re
from typing import Protocol

SIGNATURE_BYTES = 64
_SR25519 = 1
_HEX = re.compile(rf"[0-9a-f]{{{2 * SIGNATURE_BYTES}}}")


class Signer(Protocol):
    """A hotkey that can sign, such as bittensor's Keypair."""

    @property
    def ss58_address(self) -> str:
        """The public ss58 address."""
        ...

    def sign(self, data: bytes, /) -> bytes:
        """Return the sr25519 signature over `data`, 64 bytes."""
        ...


def is_signature_of(signature: str, message: bytes, hotkey: str) -> bool:
    """Return whether `signature` is `hotkey`'s sr25519 signature over exactly `message`; never raises for its text.

    Accepted are 128 lower-case hex digits, so that a signature has one text. The library also accepts signatures over
    `<Bytes>message</Bytes>`, which wallets make of any text that a web page asks a person to sign. These are refused:
    nothing but the raw message counts.
    """
    # Not from `bittensor`, whose import takes half a second.
    from bittensor_core import verify

    if not _HEX.fullmatch(signature):
        return False
    raw = bytes.fromhex(signature)
    try:
        # The library has no verification of the raw message alone, so the wrapped one is asked for too.
        return bool(verify(message, raw, hotkey, _SR25519)) and not verify(_wrapped(message), raw, hotkey, _SR25519)
    except ValueError:  # The hotkey is not an address.
        return False


def _wrapped(message: bytes) -> bytes:
    return b"<Bytes>" + message + b"</Bytes>"
