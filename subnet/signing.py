"""The validator's signature over its request, and the miner's over its response.

Requests are signed by `btauth/1`, which `bittensor.http_auth` verifies; it covers requests only. The signature of a
response covers what identifies it: the task, the nonce of the signed request, the hotkeys of validator and miner, the
HTTP status, and the digest of the body. The task's id is the digest of its terms, so the signature binds them: bounds,
label, original, timeout. These are pure functions, so an auditor can check records with them offline.
"""

import hashlib
import time

from perturb.schemas.signature import is_signature_of
from perturb.subnet.keys import Keypair

VERSION = "perturb-response/1"


def sign_request(keypair: Keypair, *, path: str, body_sha256: str, receiver: str) -> dict[str, str]:
    """Return the `btauth/1` headers of a POST to `receiver`, from the digest of its body.

    `bittensor.http_auth.sign` hashes the body itself, once for each miner. All miners get the same body, and hashing it
    is most of the cost of signing, so this takes the digest. Keys are sr25519, the protocol's default scheme.
    """
    from bittensor import http_auth

    nonce = str(time.time_ns())
    fields = (http_auth.PROTOCOL, "sr25519", "POST", path, body_sha256, nonce, keypair.ss58_address, receiver)
    return {
        http_auth.HEADER_VERSION: http_auth.VERSION,
        http_auth.HEADER_HOTKEY: keypair.ss58_address,
        http_auth.HEADER_RECEIVER: receiver,
        http_auth.HEADER_NONCE: nonce,
        http_auth.HEADER_SIGNATURE: "0x" + keypair.sign("\n".join(fields).encode()).hex(),
    }


def response_message(
    task_id: str, nonce: str, validator_hotkey: str, miner_hotkey: str, status: int, body_sha256: str
) -> bytes:
    """Return the signed bytes: seven lines of UTF-8, joined by newlines, without one at the end.

    `nonce` is the decimal nonce of the request (`X-Bittensor-Nonce`). `body_sha256` has 64 lowercase hex digits and is
    of the bytes as they were sent. Raises ValueError where a field could be read as two.
    """
    fields = (VERSION, task_id, nonce, validator_hotkey, miner_hotkey, str(status), body_sha256)
    for field in fields:
        if not field.isprintable() or not field:
            raise ValueError(f"{field!r} can't stand in a signed message; accepted: one non-empty printable line")
    return "\n".join(fields).encode()


def sign_response(
    keypair: Keypair, *, task_id: str, nonce: str, validator_hotkey: str, status: int, body: bytes
) -> str:
    """Return a miner's signature over its response, as 128 hex digits."""
    digest = hashlib.sha256(body).hexdigest()
    message = response_message(task_id, nonce, validator_hotkey, keypair.ss58_address, status, digest)
    return keypair.sign(message).hex()


def verify_response_signature(
    signature: str,
    *,
    task_id: str,
    nonce: str,
    validator_hotkey: str,
    miner_hotkey: str,
    status: int,
    body_sha256: str,
) -> bool:
    """Return whether `signature` (hex, sr25519) is `miner_hotkey`'s over exactly this response; never raises."""
    try:
        message = response_message(task_id, nonce, validator_hotkey, miner_hotkey, status, body_sha256)
    except ValueError:
        return False
    return is_signature_of(signature, message, miner_hotkey)
