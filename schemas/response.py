"""What came back from a miner, before it is verified."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    """One miner's answer to one challenge, or the reason why there is none.

    `body` is the PNG byte for byte as it was sent; empty where `failure` names what went wrong on the wire
    (an `Outcome`). `response_ms` runs on a monotonic clock from sending to the last byte. `signature` is the
    miner's sr25519 signature (hex) over `perturb.subnet.signing.response_message`.
    """

    miner_uid: int
    miner_hotkey: str
    response_ms: float
    body: bytes = b""
    body_sha256: str | None = None
    nonce: str | None = None
    signature: str | None = None
    failure: str | None = None
    detail: str | None = None
