"""DSSE envelopes: one body, signed by the sr25519 hotkey and by an ed25519 companion that stock tools can check.

The signed bytes are the pre-authentication encoding of DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md). A
file is accepted in one form only, the canonical JSON, so that no byte of it can change unnoticed.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError
from perturb.schemas.signature import is_signature_of
from perturb.subnet.keys import Keypair

STATEMENT_TYPE = "application/vnd.in-toto+json"
PLAN_TYPE = "application/vnd.perturb.certification-plan+json"
_SS58_FORMAT = 42
_ED25519 = 0
# A file of a stranger is read up to this size only, in bytes.
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Envelope:
    """A parsed envelope: the body as it was signed, and the signatures in hex by key id."""

    payload_type: str
    body: bytes
    signatures: dict[str, str]


def preauthentication(payload_type: str, body: bytes) -> bytes:
    """Return the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)


def hotkey_id(address: str) -> str:
    """Return the key id of a hotkey."""
    return f"sr25519:{address}"


def companion_id(public_key: str) -> str:
    """Return the key id of a companion, whose public key is 64 hex digits."""
    return f"ed25519:{public_key}"


def seal(payload_type: str, body: bytes, *, hotkey: Keypair, companion: Keypair | None) -> bytes:
    """Return the file of an envelope over `body`, signed by the hotkey and, where there is one, the companion."""
    message = preauthentication(payload_type, body)
    signatures = [{"keyid": hotkey_id(hotkey.ss58_address), "sig": _base64(hotkey.sign(message))}]
    if companion is not None:
        signatures.append({"keyid": companion_id(companion.public_key.hex()), "sig": _base64(companion.sign(message))})
    return with_signatures(payload_type, body, signatures)


def with_signatures(payload_type: str, body: bytes, signatures: list[dict[str, str]]) -> bytes:
    """Return the file of an envelope with these signatures."""
    return canonical_json({"payload": _base64(body), "payloadType": payload_type, "signatures": signatures})


def open_envelope(data: bytes, payload_type: str, where: str) -> Envelope:
    """Return the parsed envelope, whose signatures were not yet verified.

    Raises AuditError for what is no envelope of this type in canonical form.
    """
    if len(data) > MAX_BYTES:
        raise AuditError(f"{where} has {len(data)} bytes; accepted: up to {MAX_BYTES}")
    try:
        found = json.loads(data)
        if set(found) != {"payload", "payloadType", "signatures"} or found["payloadType"] != payload_type:
            raise ValueError("its fields are not those of an envelope of this type")
        body = base64.b64decode(found["payload"], validate=True)
        signatures: dict[str, str] = {}
        for one in found["signatures"]:
            if set(one) != {"keyid", "sig"} or not isinstance(one["keyid"], str) or one["keyid"] in signatures:
                raise ValueError("a signature is not {keyid, sig}, or there are two of one key")
            signatures[one["keyid"]] = base64.b64decode(one["sig"], validate=True).hex()
        if canonical_json(found) != data or _base64(body) != found["payload"]:
            raise ValueError("it is not in canonical form")
        if any(_base64(bytes.fromhex(signatures[one["keyid"]])) != one["sig"] for one in found["signatures"]):
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise AuditError(f"{where} is not a DSSE envelope of {payload_type}: {error}") from error
    return Envelope(payload_type, body, signatures)


def signature_faults(envelope: Envelope, *, hotkey: str, companion: str | None) -> list[str]:
    """Return what is wrong with the signatures of `hotkey` (ss58) and `companion` (64 hex digits), a sentence each.

    Further signatures, such as countersignatures, must be valid too.
    """
    message = preauthentication(envelope.payload_type, envelope.body)
    wanted = {hotkey_id(hotkey), *([companion_id(companion)] if companion else [])}
    faults = [f"the signature of {key} is missing" for key in sorted(wanted - envelope.signatures.keys())]
    for key, signature in envelope.signatures.items():
        scheme, _, owner = key.partition(":")
        if scheme == "sr25519":
            valid = is_signature_of(signature, message, owner)
        elif scheme == "ed25519" and key in wanted:
            valid = _is_companions(signature, message, owner)
        else:
            faults.append(f"there is a signature of {key}, which the statement does not name")
            continue
        if not valid:
            faults.append(f"the signature of {key} is not valid for this document")
    return faults


def parsed_body(envelope: Envelope, where: str) -> dict[str, Any]:
    """Return the body as a JSON object. Raises AuditError where it is not canonical JSON, or holds a float."""
    try:
        value = json.loads(envelope.body, parse_float=_refuse_float, parse_constant=_refuse_float)
        if not isinstance(value, dict) or canonical_json(value) != envelope.body:
            raise ValueError("it is not a JSON object in canonical form")
    except (ValueError, RecursionError) as error:
        raise AuditError(f"the body of {where} can't be read: {error}") from error
    return value


def _refuse_float(text: str) -> float:
    raise ValueError(f"it holds the number {text}; signed documents have integers and decimal strings only")


def _is_companions(signature: str, message: bytes, public_key: str) -> bool:
    from bittensor.sp_core import ss58_encode, verify

    try:
        address = ss58_encode(bytes.fromhex(public_key), _SS58_FORMAT)
        return len(signature) == 128 and bool(verify(message, bytes.fromhex(signature), address, _ED25519))
    except ValueError:
        return False


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
