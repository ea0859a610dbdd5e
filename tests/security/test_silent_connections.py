"""Connections that send nothing, or little, keep no honest sender from a miner; no body is kept for a forger."""

import hashlib
import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

import pytest
from bittensor import http_auth
from hypothesis import given
from hypothesis import strategies as st

from perturb.miner.authentication import Authenticator, auth_headers
from perturb.miner.limits import Limits
from perturb.schemas.challenge import Challenge, Origin
from perturb.schemas.image import encode_png
from perturb.subnet import wire
from perturb.subnet.keys import development_keypair
from perturb.subnet.signing import sign_request
from tests.support.tasks import make_task

VALIDATOR, MINER, STRANGER = (development_keypair(uri) for uri in ("//Validator", "//Miner", "//Stranger"))
# An answer takes milliseconds. The connection that gives up first is the one that would have waited for good.
PATIENCE = 20.0


def signed(body: bytes, *, sender: object = VALIDATOR) -> dict[str, str]:
    digest = hashlib.sha256(body).hexdigest()
    headers = sign_request(sender, path=wire.CHALLENGE_PATH, body_sha256=digest, receiver=MINER.ss58_address)  # type: ignore[arg-type]
    return headers | {wire.HEADER_DIGEST: wire.content_digest(digest)}


def ask(port: int, method: str, path: str, *, source: str, body: bytes = b"", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))
    connection.request(method, path, body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.fixture
def challenge_body(photo) -> Callable[[int], bytes]:
    def make(number: int) -> bytes:
        origin = Origin(source="sample", source_id="1", clean_confidence=1, clean_margin=1, judge="none")
        task = make_task(photo, number=number, timeout_ms=5000)
        return wire.pack_request(Challenge("r", datetime.now(UTC), task, origin, encode_png(photo)))

    return make


@contextmanager
def silent(port: int, count: int, *, source: str, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open so many connections that send `first` and no more."""
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            one = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=(source, 0))
            )
            one.sendall(first)
            found.append(one)
        yield found


def allow_open_files(count: int) -> None:
    """Both ends of each connection are open here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"a process may open {hard} files here; this needs {count}")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@pytest.mark.parametrize("count", [64, 256, 1024])
@pytest.mark.parametrize("first", [b"", b"POST /v1/challenge HTTP/1.1\r\nX: "])
def test_honest_senders_are_served_beside_silent_connections(
    start_miner,
    challenge_body: Callable[[int], bytes],
    count: int,
    first: bytes,
) -> None:
    allow_open_files(2 * count + 500)
    miner = start_miner()
    for attacker in ("127.0.0.2", "127.0.0.1"):  # from elsewhere, and from the honest senders' own address
        with silent(miner.port, count, source=attacker, first=first):
            for number in range(4):
                body = challenge_body(number)
                assert ask(miner.port, "GET", "/health", source="127.0.0.1") == 200
                path = wire.CHALLENGE_PATH
                assert ask(miner.port, "POST", path, source="127.0.0.1", body=body, **signed(body)) == 200


def test_silent_connections_of_many_addresses_leave_room(start_miner, challenge_body) -> None:
    miner = start_miner(limits=Limits(max_connections=40, max_connections_per_address=10))
    with ExitStack() as stack:
        for number in range(2, 42):
            stack.enter_context(silent(miner.port, 3, source=f"127.0.0.{number}"))
        assert ask(miner.port, "GET", "/health", source="127.0.0.1") == 200
        body = challenge_body(1)
        assert ask(miner.port, "POST", wire.CHALLENGE_PATH, source="127.0.0.1", body=body, **signed(body)) == 200


def ended(connection: socket.socket) -> bool:
    """Wait until the other end closes the connection; False where it does not."""
    connection.settimeout(PATIENCE)
    try:
        while connection.recv(1000):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("first", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_connection_without_a_verified_request_is_closed(start_miner, first: bytes) -> None:
    miner = start_miner(limits=Limits(header_seconds=0.3))
    with silent(miner.port, 1, source="127.0.0.1", first=first) as [one]:
        assert ended(one)


def test_a_byte_now_and_then_does_not_keep_a_connection_open(start_miner) -> None:
    miner = start_miner(limits=Limits(header_seconds=0.5))
    with silent(miner.port, 1, source="127.0.0.1", first=b"GET / HTTP/1.1\r\nX: ") as [one]:
        until = time.monotonic() + PATIENCE
        with suppress(ConnectionError):
            while time.monotonic() < until:
                one.sendall(b"y")
                time.sleep(0.05)
        assert time.monotonic() < until, "the connection is still open"


def test_a_verified_request_outlives_the_limit_and_the_flood(start_miner, challenge_body) -> None:
    working, release = threading.Event(), threading.Event()

    def slow(*_: object) -> bytes:
        working.set()
        release.wait(PATIENCE)
        return b"done"

    miner = start_miner(slow, limits=Limits(header_seconds=0.2, max_connections=8, max_connections_per_address=4))
    body, seen = challenge_body(1), []
    facts = {"source": "127.0.0.1", "body": body, **signed(body)}
    honest = threading.Thread(target=lambda: seen.append(ask(miner.port, "POST", wire.CHALLENGE_PATH, **facts)))
    honest.start()
    assert working.wait(PATIENCE)
    with silent(miner.port, 40, source="127.0.0.1") as connections:
        assert all(map(ended, connections))
        release.set()
        honest.join(PATIENCE)
    assert seen == [200]


def test_a_forger_is_refused_before_the_body_is_sent(start_miner, challenge_body) -> None:
    miner = start_miner()
    body = challenge_body(1)
    forged = signed(body, sender=STRANGER) | {http_auth.HEADER_HOTKEY: VALIDATOR.ss58_address}
    without_digest = {name: value for name, value in signed(body).items() if name != wire.HEADER_DIGEST}
    for headers, reason in ((forged, b"BadSignature"), (without_digest, b"MalformedAuth: Content-Digest")):
        lines = [f"POST {wire.CHALLENGE_PATH} HTTP/1.1", "Host: x", f"Content-Length: {wire.MAX_BODY_BYTES}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with silent(miner.port, 1, source="127.0.0.1", first=("\r\n".join(lines) + "\r\n\r\n").encode()) as [one]:
            answer = b""
            while reason not in answer:
                received = one.recv(1000)
                assert received, answer
                answer += received
            assert answer.startswith(b"HTTP/1.1 401 ")
    assert not miner.asked


def test_another_body_than_the_signed_one_is_refused(start_miner, challenge_body) -> None:
    miner = start_miner()
    body = challenge_body(1)
    other = body[:-1] + bytes([body[-1] ^ 1])
    assert ask(miner.port, "POST", wire.CHALLENGE_PATH, source="127.0.0.1", body=other, **signed(body)) == 401
    assert not miner.asked


@given(st.binary(max_size=100), st.sampled_from(["/v1/challenge", "/v1/challenge?x=1"]))
def test_headers_alone_are_verified_as_the_sdk_verifies_the_whole_request(body: bytes, target: str) -> None:
    headers = http_auth.sign(VALIDATOR, method="POST", path=target, body=body, receiver_ss58=MINER.ss58_address)
    headers[wire.HEADER_DIGEST] = wire.content_digest(hashlib.sha256(body).hexdigest())
    read = auth_headers((name.lower(), value) for name, value in headers.items())
    sender = Authenticator(MINER.ss58_address).verify(read, method="POST", target=target)
    caller = http_auth.verify(headers, body, method="POST", path=target, self_hotkey_ss58=MINER.ss58_address,
                              nonce_store=http_auth.InMemoryNonceStore())  # fmt: skip
    assert (sender.hotkey, sender.nonce) == (caller.hotkey_ss58, str(caller.nonce_ns))
    assert sender.body_sha256 == hashlib.sha256(body).hexdigest()
    with pytest.raises(http_auth.BadSignature):
        Authenticator(MINER.ss58_address).verify(read, method="POST", target=target + "x")
