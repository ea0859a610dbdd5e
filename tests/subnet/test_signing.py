"""The response's signature: this answer, to this request, by this hotkey, and nothing else."""

import hashlib

import pytest
from bittensor import http_auth

from perturb.subnet.keys import development_keypair
from perturb.subnet.signing import response_message, sign_request, sign_response, verify_response_signature

ALICE, BOB, VALIDATOR = (development_keypair(uri) for uri in ("//Alice", "//Bob", "//Validator"))
BODY = b"the bytes as they were sent"
FACTS = {
    "task_id": "0" * 32,
    "nonce": "1795409262287843436",
    "validator_hotkey": VALIDATOR.ss58_address,
    "miner_hotkey": ALICE.ss58_address,
    "status": 200,
    "body_sha256": hashlib.sha256(BODY).hexdigest(),
}


@pytest.fixture(scope="module")
def signature() -> str:
    return sign_response(
        ALICE, task_id="0" * 32, nonce=FACTS["nonce"], validator_hotkey=VALIDATOR.ss58_address, status=200, body=BODY
    )


def test_a_request_is_signed_as_the_sdk_signs_and_verifies_it() -> None:
    facts = {"path": "/v1/challenge", "receiver": ALICE.ss58_address}
    ours = sign_request(VALIDATOR, body_sha256=hashlib.sha256(BODY).hexdigest(), **facts)
    nonce = int(ours[http_auth.HEADER_NONCE])
    theirs = http_auth.sign(
        VALIDATOR, method="POST", path=facts["path"], body=BODY, receiver_ss58=facts["receiver"], nonce_ns=nonce
    )
    signatures = [headers.pop(http_auth.HEADER_SIGNATURE) for headers in (ours, theirs)]
    assert ours == theirs
    for signature in signatures:
        caller = http_auth.verify(
            ours | {http_auth.HEADER_SIGNATURE: signature},
            BODY,
            method="POST",
            path=facts["path"],
            self_hotkey_ss58=ALICE.ss58_address,
            nonce_store=http_auth.InMemoryNonceStore(),
        )
        assert caller.hotkey_ss58 == VALIDATOR.ss58_address


def test_the_signed_text_is_this_one_byte_for_byte() -> None:
    assert response_message("a", "1", "v", "m", 200, "d") == b"perturb-response/1\na\n1\nv\nm\n200\nd"


def test_a_genuine_signature_holds(signature: str) -> None:
    assert verify_response_signature(signature, **FACTS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_id", "1" * 32),
        ("nonce", "1795409262287843437"),
        ("validator_hotkey", BOB.ss58_address),
        ("miner_hotkey", BOB.ss58_address),
        ("status", 201),
        ("body_sha256", hashlib.sha256(BODY + b"!").hexdigest()),
        ("task_id", "0" * 32 + "\n1"),
        ("miner_hotkey", "nobody"),
    ],
)
def test_it_holds_for_nothing_else(signature: str, name: str, value: object) -> None:
    assert not verify_response_signature(signature, **(FACTS | {name: value}))


@pytest.mark.parametrize("other", ["", "zz", "00" * 64, "00" * 63, "ff" * 65, "é" * 128])
def test_garbage_is_no_signature(other: str) -> None:
    assert not verify_response_signature(other, **FACTS)


def test_fields_cannot_run_into_each_other() -> None:
    with pytest.raises(ValueError, match="signed message"):
        response_message("a\n1", "v", "m", "m", 200, "d")
    with pytest.raises(ValueError, match="signed message"):
        response_message("", "1", "v", "m", 200, "d")
