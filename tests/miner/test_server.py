"""The miner's door: who gets in, with what, and what they take away."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from bittensor import http_auth

from perturb.miner.limits import Limits
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import AttackError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.png import read_png
from perturb.subnet import wire
from perturb.subnet.keys import Keypair, development_keypair
from perturb.subnet.signing import verify_response_signature

VALIDATOR, MINER, STRANGER = (development_keypair(uri) for uri in ("//Validator", "//Miner", "//Stranger"))


def packed(task: Task, pixels: Pixels) -> bytes:
    origin = Origin(source="sample", source_id="1", clean_confidence=1, clean_margin=1, judge="none")
    return wire.pack_request(Challenge("r", datetime.now(UTC), task, origin, encode_png(pixels)))


@pytest.fixture
def body(make_task: Callable[..., Task], photo: Pixels) -> bytes:
    return packed(make_task(), photo)


def signed(body: bytes, *, sender: Keypair = VALIDATOR, receiver: Keypair = MINER, **changes: object) -> dict[str, str]:
    facts: dict[str, object] = {"method": "POST", "path": wire.CHALLENGE_PATH, "receiver_ss58": receiver.ss58_address}
    digest = {wire.HEADER_DIGEST: wire.content_digest(hashlib.sha256(body).hexdigest())}
    return http_auth.sign(sender, body=body, **(facts | changes)) | digest


def post(
    port: int, body: bytes, headers: dict[str, str] | list[tuple[str, str]], path: str = wire.CHALLENGE_PATH
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("POST", path, skip_accept_encoding=True)
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    for name, value in [*pairs, ("Content-Length", str(len(body)))]:
        connection.putheader(name, value)
    connection.endheaders(body)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, dict(reply.getheaders())


def test_a_genuine_request_is_answered_and_the_answer_signed(start_miner, body: bytes, photo: Pixels) -> None:
    miner = start_miner()
    headers = signed(body)
    status, content, answered = post(miner.port, body, headers)
    assert status == 200
    assert (read_png(content, height=64, width=96) != photo).sum() == 1
    facts = {
        "task_id": miner.asked[0].task_id,
        "nonce": headers[http_auth.HEADER_NONCE],
        "validator_hotkey": VALIDATOR.ss58_address,
        "status": 200,
        "body_sha256": hashlib.sha256(content).hexdigest(),
    }
    signature = {name.lower(): value for name, value in answered.items()}[wire.HEADER_SIGNATURE.lower()]
    assert verify_response_signature(signature, miner_hotkey=MINER.ss58_address, **facts)
    assert not verify_response_signature(signature, miner_hotkey=STRANGER.ss58_address, **facts)


def test_a_replayed_request_is_refused(start_miner, body: bytes) -> None:
    miner = start_miner()
    headers = signed(body)
    assert post(miner.port, body, headers)[0] == 200
    status, content, _ = post(miner.port, body, headers)
    assert (status, b"ReplayedRequest" in content) == (401, True)
    assert len(miner.asked) == 1


def test_replays_stay_replays_after_the_clock_was_set_back(
    start_miner, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    miner = start_miner()
    headers = signed(body)
    assert post(miner.port, body, headers)[0] == 200
    # Five minutes pass, then the wall clock is set back by as much: the old nonce is fresh again.
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 300, time_ns=time.time_ns)
    monkeypatch.setattr(http_auth, "time", later)
    assert post(miner.port, body, headers)[0] == 401
    assert len(miner.asked) == 1


def test_a_request_for_another_miner_is_refused(start_miner, body: bytes) -> None:
    miner = start_miner()
    for headers in (signed(body, receiver=STRANGER), signed(body, receiver_ss58=None)):
        status, content, _ = post(miner.port, body, headers)
        assert (status, b"WrongReceiver" in content) == (401, True)
    # The same, with the receiver rewritten: now the signature doesn't hold.
    headers = signed(body, receiver=STRANGER) | {http_auth.HEADER_RECEIVER: MINER.ss58_address}
    status, content, _ = post(miner.port, body, headers)
    assert (status, b"BadSignature" in content) == (401, True)
    assert not miner.asked


def test_forged_requests_are_refused(start_miner, body: bytes, make_task, photo: Pixels) -> None:
    miner = start_miner()
    other_body = packed(make_task(number=1), photo)
    as_validator = {http_auth.HEADER_HOTKEY: VALIDATOR.ss58_address}
    now = time.time_ns()
    forged = {
        "signed by a stranger in the validator's name": signed(body, sender=STRANGER) | as_validator,
        "signed for another body": signed(other_body),
        "signed for another path": signed(body, path="/health"),
        "signed for another method": signed(body, method="GET"),
        "another nonce": signed(body) | {http_auth.HEADER_NONCE: str(now)},
        "too old": signed(body, nonce_ns=now - 11 * 10**9),
        "from the future": signed(body, nonce_ns=now + 5 * 10**9),
        "no signature": {k: v for k, v in signed(body).items() if k != http_auth.HEADER_SIGNATURE},
        "a signature of zeros": signed(body) | {http_auth.HEADER_SIGNATURE: "0x" + "00" * 64},
        "nothing signed": {},
        "a hotkey of 60 KB": signed(body) | {http_auth.HEADER_HOTKEY: "5" * 8000},
        "a nonce of 4000 digits": signed(body) | {http_auth.HEADER_NONCE: "1" * 4000},
        "another scheme": signed(body) | {http_auth.HEADER_CRYPTO: "ed25519"},
        "another version": signed(body) | {http_auth.HEADER_VERSION: "9"},
    }
    seen = {name: post(miner.port, body, headers)[0] for name, headers in forged.items()}
    assert seen == dict.fromkeys(forged, 401)
    assert not miner.asked


def test_two_hotkey_headers_do_not_open_the_door(start_miner, body: bytes) -> None:
    # One is looked up in the list, the other verified: both have to be the same one.
    miner = start_miner()
    mine = list(signed(body, sender=STRANGER).items())
    theirs = (http_auth.HEADER_HOTKEY, VALIDATOR.ss58_address)
    assert post(miner.port, body, [theirs, *mine])[0] == 401
    assert post(miner.port, body, [*mine, theirs])[0] == 401
    assert not miner.asked


def test_who_is_not_on_the_list_is_refused_before_a_byte_of_the_body(start_miner, body: bytes) -> None:
    miner = start_miner()
    headers = signed(body, sender=STRANGER)
    lines = [f"POST {wire.CHALLENGE_PATH} HTTP/1.1", "Host: x", "Content-Length: 1000000"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", miner.port), timeout=20) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 403 ")


def test_the_path_as_sent_is_what_is_verified(start_miner, body: bytes) -> None:
    miner = start_miner()
    encoded = "/v1/chal%6cenge"
    assert post(miner.port, body, signed(body), path=encoded)[0] == 401
    assert post(miner.port, body, signed(body, path=encoded), path=encoded)[0] == 200
    assert post(miner.port, body, signed(body), path=wire.CHALLENGE_PATH + "?x=1")[0] == 401


def test_bodies_are_capped_whether_announced_or_not(start_miner) -> None:
    miner = start_miner()
    large = bytes(wire.MAX_BODY_BYTES + 1)
    headers = signed(large)
    connection = http.client.HTTPConnection("127.0.0.1", miner.port, timeout=20)
    connection.request("POST", wire.CHALLENGE_PATH, headers=headers | {"Content-Length": str(len(large))})
    assert connection.getresponse().status == 413
    connection.close()

    connection = http.client.HTTPConnection("127.0.0.1", miner.port, timeout=20)
    try:
        connection.request("POST", wire.CHALLENGE_PATH, iter([large, large]), headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # It may hang up while we are still sending.
    else:
        assert connection.getresponse().status == 413
    connection.close()
    assert not miner.asked


def test_what_is_signed_may_still_be_nonsense(start_miner, make_task, photo: Pixels) -> None:
    miner = start_miner()
    bodies = {
        "empty": b"",
        "no frame": b"hello",
        "larger than it says": packed(make_task(height=65, width=96), photo),
        "another picture": packed(make_task(original_sha256="9" * 64), photo),
        "a decompression bomb": packed(make_task(height=60_000, width=60_000), photo),
    }
    seen = {name: post(miner.port, body, signed(body))[0] for name, body in bodies.items()}
    assert seen == dict.fromkeys(bodies, 400)
    assert not miner.asked


def test_a_busy_miner_says_so_and_goes_on(start_miner, make_task, photo: Pixels) -> None:
    working, release = threading.Event(), threading.Event()

    def slow(task: Task, clean: Pixels, deadline: float) -> bytes:
        working.set()
        release.wait(20)
        return b"done"

    miner = start_miner(slow, limits=Limits(max_concurrent=1))
    first, second = packed(make_task(number=1), photo), packed(make_task(number=2), photo)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(post(miner.port, first, signed(first))[0]))
    thread.start()
    assert working.wait(20)
    status, _, headers = post(miner.port, second, signed(second))
    assert (status, headers["retry-after"]) == (503, "2")
    connection = http.client.HTTPConnection("127.0.0.1", miner.port, timeout=20)
    connection.request("GET", "/health")
    health = json.loads(connection.getresponse().read())
    assert health == {"status": "ok", "hotkey": MINER.ss58_address, "attack": "test", "in_flight": 1}
    release.set()
    thread.join(20)
    assert results == [200]
    assert post(miner.port, second, signed(second))[0] == 200


def test_a_failing_attack_costs_one_answer_and_its_reason_stays_here(
    start_miner, make_task, photo: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(task: Task, clean: Pixels, deadline: float) -> bytes:
        raise AttackError("attack 'mine:floats' returned float32")

    miner = start_miner(failing)
    for number in (1, 2):
        body = packed(make_task(number=number), photo)
        status, said, _ = post(miner.port, body, signed(body))
        assert (status, said) == (500, b"the attack of this miner failed")
    assert "no answer was sent: attack 'mine:floats' returned float32" in caplog.text


def test_a_flood_of_headers_is_refused(start_miner) -> None:
    miner = start_miner()
    with socket.create_connection(("127.0.0.1", miner.port), timeout=20) as connection:
        connection.sendall(f"POST {wire.CHALLENGE_PATH} HTTP/1.1\r\nHost: x\r\n".encode())
        received = b""
        try:
            for _ in range(200):
                connection.sendall(b"X-Flood: " + b"y" * 1000 + b"\r\n")
            received = connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            received = b"HTTP/1.1 400 "
    assert received.startswith(b"HTTP/1.1 4")
    assert not miner.asked


def test_two_miners_of_one_process_keep_their_nonces_apart(start_miner, body: bytes) -> None:
    one, other = start_miner(), start_miner(keypair=STRANGER)
    nonce = time.time_ns()
    assert post(one.port, body, signed(body, nonce_ns=nonce))[0] == 200
    assert post(other.port, body, signed(body, receiver=STRANGER, nonce_ns=nonce))[0] == 200
