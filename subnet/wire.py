"""The wire format. Request: u32 big-endian header length, canonical JSON of the task, the clean PNG. Response: a PNG.

The request body is the same bytes for every miner. JSON with the image in base64 would take a third more bytes and
three times the client's CPU time.
"""

import base64
import struct

from pydantic import ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.challenge import Challenge, Task
from perturb.schemas.png import max_png_bytes

CHALLENGE_PATH = "/v1/challenge"
REQUEST_TYPE = "application/octet-stream"
RESPONSE_TYPE = "image/png"

# The digest of the request's body, so that a miner can verify the signature before it takes the body.
HEADER_DIGEST = "Content-Digest"
# The response's headers. Each is compared with the request or verified.
HEADER_TASK = "X-Perturb-Task"
HEADER_NONCE = "X-Perturb-Nonce"
HEADER_HOTKEY = "X-Perturb-Hotkey"
HEADER_SIGNATURE = "X-Perturb-Signature"

MAX_BODY_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 16 * 2**10
_LENGTH = struct.Struct(">I")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class WireError(ValueError):
    """A request body that does not follow this version of the wire format."""


def pack_request(challenge: Challenge) -> bytes:
    """Return the request body, the same for all miners."""
    header = _canonical(challenge.task)
    return _LENGTH.pack(len(header)) + header + challenge.png


def unpack_request(body: bytes) -> tuple[Task, bytes]:
    """Return the task and the bytes of the clean image's PNG, which are not decoded or checked.

    Raises WireError for anything but exactly what `pack_request` writes, so that a body has one meaning only.
    """
    if len(body) < _LENGTH.size:
        raise WireError(f"body of {len(body)} bytes is shorter than its length field")
    (length,) = _LENGTH.unpack_from(body)
    if length > MAX_HEADER_BYTES or _LENGTH.size + length > len(body):
        raise WireError(f"header length {length} exceeds {MAX_HEADER_BYTES} bytes or the body's {len(body)} bytes")
    header = body[_LENGTH.size : _LENGTH.size + length]
    try:
        task = Task.model_validate_json(header, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise WireError(f"header is not a task: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if _canonical(task) != header:
        raise WireError("header is not canonical JSON: sorted keys, no white space, each key once")
    if fault := task.id_fault():
        raise WireError(fault)
    png = body[_LENGTH.size + length :]
    if not png.startswith(_PNG_MAGIC):
        raise WireError("the bytes after the header are not a PNG")
    return task, png


def content_digest(body_sha256: str) -> str:
    """Return the value of `Content-Digest` (RFC 9530) for a body whose SHA-256 has these hex digits."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(body_sha256)).decode()}:"


def response_limit(task: Task) -> int:
    """Return the largest body of an answer to `task`, in bytes: an incompressible PNG of its size, up to 4 MiB."""
    return min(MAX_BODY_BYTES, max_png_bytes(task.height, task.width))


def _canonical(task: Task) -> bytes:
    return canonical_json(task.model_dump(mode="json"))
