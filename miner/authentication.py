"""The sender of a request, from its headers alone, so that no byte of a body is kept for a sender without a key.

The signature of `btauth/1` covers the body's SHA-256, which the sender repeats in `Content-Digest` (RFC 9530). With it
the signature is verified before the body arrives; the body is then compared with the digest. The checks and their order
are those of `bittensor.http_auth.verify`, which needs the whole body.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bittensor import http_auth
from bittensor.sp_core import verify

from perturb.subnet import wire
from perturb.subnet.keys import SS58_LENGTH

# Much longer than the freshness window, so that a request still counts as a replay after the clock was set back.
_NONCE_SECONDS = 600.0
# Hotkeys are sr25519 keys.
_SR25519 = 1
_DIGEST = wire.HEADER_DIGEST.lower()
_DIGEST_START, _DIGEST_END = "sha-256=:", ":"
_LONGEST = {
    name.lower(): length
    for name, length in {
        http_auth.HEADER_VERSION: 8,
        http_auth.HEADER_HOTKEY: SS58_LENGTH,
        http_auth.HEADER_RECEIVER: SS58_LENGTH,
        http_auth.HEADER_NONCE: 20,
        http_auth.HEADER_CRYPTO: 16,
        http_auth.HEADER_SIGNATURE: 2 + 2 * 64,
        _DIGEST: len(wire.content_digest("00" * 32)),
    }.items()
}


@dataclass(frozen=True)
class Sender:
    """The verified sender of a request: its hotkey, the request's nonce, and the body's digest that it signed."""

    hotkey: str
    nonce: str
    body_sha256: str


class Authenticator:
    """Verifies requests to one hotkey, and remembers their nonces."""

    def __init__(self, hotkey: str):
        self._hotkey = hotkey
        # One store per hotkey: its keys do not contain the receiver, so a shared store would refuse valid requests.
        self._nonces = http_auth.InMemoryNonceStore(retention=_NONCE_SECONDS)

    def verify(self, headers: dict[str, str], *, method: str, target: str) -> Sender:
        """Return the sender of a request with these `headers`, as `auth_headers` returns them.

        `target` is the request target as it was sent. Raises a subclass of `http_auth.AuthError`, whose text may be
        sent to the sender.
        """
        hotkey = headers[http_auth.HEADER_HOTKEY.lower()]
        if headers.get(http_auth.HEADER_VERSION.lower()) != http_auth.VERSION:
            raise http_auth.MalformedAuth(f"{http_auth.HEADER_VERSION} is not {http_auth.VERSION!r}")
        nonce = headers.get(http_auth.HEADER_NONCE.lower(), "")
        if not (nonce.isascii() and nonce.isdecimal()):
            raise http_auth.MalformedAuth(f"{http_auth.HEADER_NONCE} is missing or not a decimal integer")
        if headers.get(http_auth.HEADER_CRYPTO.lower(), "sr25519") != "sr25519":
            raise http_auth.MalformedAuth(f"{http_auth.HEADER_CRYPTO} is not sr25519")
        signature = _signature(headers.get(http_auth.HEADER_SIGNATURE.lower(), ""))
        body_sha256 = _body_sha256(headers.get(_DIGEST, ""))
        receiver = headers.get(http_auth.HEADER_RECEIVER.lower(), "")
        if receiver != self._hotkey:
            raise http_auth.WrongReceiver("the request was signed for another hotkey, or for none")
        _check_fresh(int(nonce))
        lines = (http_auth.PROTOCOL, "sr25519", method, target, body_sha256, nonce, hotkey, receiver)
        try:
            genuine = verify("\n".join(lines).encode(), signature, hotkey, _SR25519)
        except ValueError:
            raise http_auth.MalformedAuth("the hotkey is not an ss58 address") from None
        if not genuine:
            raise http_auth.BadSignature("the signature is not the hotkey's over this request")
        if not self._nonces.check_and_store(hotkey, int(nonce)):
            raise http_auth.ReplayedRequest("this nonce was already accepted from this hotkey")
        return Sender(hotkey, nonce, body_sha256)


def auth_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that `Authenticator.verify` reads, by lower-case name; the names in `headers` are lower-case.

    Raises MalformedAuth for one that is repeated or too long, and for a missing hotkey.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _LONGEST:
            if name in found or len(value) > _LONGEST[name] or not value.isascii():
                raise http_auth.MalformedAuth(f"{name} is repeated or malformed")
            found[name] = value
    if len(found.get(http_auth.HEADER_HOTKEY.lower(), "")) != SS58_LENGTH:
        raise http_auth.MalformedAuth(f"{http_auth.HEADER_HOTKEY} is missing or not an ss58 address")
    return found


def check_body(sender: Sender, body: Any) -> None:
    """Raise BadSignature where the `body` (bytes) is not the one that the sender signed."""
    if hashlib.sha256(body).hexdigest() != sender.body_sha256:
        raise http_auth.BadSignature(f"the body does not have the digest in {wire.HEADER_DIGEST}")


def _signature(text: str) -> bytes:
    digits = text.removeprefix("0x")
    try:
        signature = bytes.fromhex(digits)
    except ValueError:
        signature = b""
    if len(digits) != 128 or len(signature) != 64:  # `fromhex` skips white space.
        raise http_auth.MalformedAuth(f"{http_auth.HEADER_SIGNATURE} is missing or not 128 hex digits")
    return signature


def _body_sha256(text: str) -> str:
    """Return the hex digits of the digest in a Content-Digest header."""
    encoded = text.removeprefix(_DIGEST_START).removesuffix(_DIGEST_END)
    try:
        digits = base64.b64decode(encoded, validate=True).hex()
    except (binascii.Error, ValueError):
        digits = ""
    # Compared with what is written for this digest, so that a digest has one form only.
    if len(digits) != 64 or wire.content_digest(digits) != text:
        raise http_auth.MalformedAuth(f"{wire.HEADER_DIGEST} is missing or not `sha-256=:BASE64:` of the body")
    return digits


def _check_fresh(nonce: int) -> None:
    age = (time.time_ns() - nonce) / 1e9
    if age > http_auth.DEFAULT_MAX_AGE:
        raise http_auth.StaleRequest(f"the nonce is older than {http_auth.DEFAULT_MAX_AGE:g} s")
    if -age > http_auth.DEFAULT_ALLOWED_SKEW:
        raise http_auth.StaleRequest(f"the nonce is more than {http_auth.DEFAULT_ALLOWED_SKEW:g} s in the future")
