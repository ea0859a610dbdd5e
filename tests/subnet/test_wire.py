"""Request bodies: one meaning, or refused."""

import json
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Challenge, Origin, Task, Terms
from perturb.subnet.wire import MAX_BODY_BYTES, WireError, pack_request, response_limit, unpack_request

PNG = b"\x89PNG\r\n\x1a\nrest"


def packed(png: bytes = PNG, **changes: object) -> Challenge:
    facts = {
        "task_salt": "0123456789abcdef" * 2,
        "true_label": 7,
        "true_label_name": 'cock, "rooster" é',
        "classifier": "tf_efficientnet_lite0",
        "classifier_sha256": "0" * 64,
        "bounds": Bounds(),
        "timeout_ms": 20_000,
        "height": 224,
        "width": 224,
        "original_sha256": "1" * 64,
    }
    origin = Origin(source="s", source_id="1", clean_confidence=1, clean_margin=1, judge="none")
    task = Terms.model_validate(facts | changes).as_task()
    return Challenge(round_id="r", created_at=datetime.now(UTC), task=task, origin=origin, png=png)


def framed(header: bytes, png: bytes = PNG) -> bytes:
    return struct.pack(">I", len(header)) + header + png


@given(st.text(max_size=40), st.binary(max_size=200), st.floats(1 / 255, 1), st.integers(1, 10**9))
def test_what_is_packed_is_read_back(name: str, tail: bytes, epsilon: float, timeout_ms: int) -> None:
    challenge = packed(PNG + tail, true_label_name=name, bounds=Bounds(epsilon=epsilon), timeout_ms=timeout_ms)
    task, png = unpack_request(pack_request(challenge))
    assert (task, png) == (challenge.task, challenge.png)


def test_the_origin_stays_at_home() -> None:
    challenge = packed()
    body = pack_request(challenge)
    assert set(json.loads(body[4 : -len(PNG)])) == set(Task.model_fields)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack_request(body)


@given(st.integers(0, 700), st.integers(1, 255))
def test_a_changed_byte_never_reads_as_the_same_task(place: int, flip: int) -> None:
    challenge = packed()
    body = bytearray(pack_request(challenge))
    body[place % (len(body) - len(PNG))] ^= flip
    try:
        task, _ = unpack_request(bytes(body))
    except WireError:
        return
    assert task != challenge.task


def header_of(challenge: Challenge) -> dict[str, object]:
    return json.loads(pack_request(challenge)[4 : -len(PNG)])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (lambda facts: json.dumps(facts).encode(), "not canonical"),
        (lambda facts: json.dumps(facts | {"extra": 1}, sort_keys=True, separators=(",", ":")).encode(), "extra"),
        (lambda facts: json.dumps(facts | {"task_id": "../../etc"}).encode(), "task_id"),
        (lambda facts: json.dumps(facts | {"height": 1e400}).encode(), "height"),
        (lambda facts: json.dumps(facts | {"height": "224"}).encode(), "height"),
        (lambda facts: b"[" * 10_000, "not a task"),
        (lambda facts: b"x" * 20_000, "16384"),
        (lambda facts: b"", "not a task"),
    ],
)
def test_headers_that_are_not_the_canonical_ones_are_refused(header, message: str) -> None:
    with pytest.raises(WireError, match=message):
        unpack_request(framed(header(header_of(packed()))))


def test_a_key_that_stands_twice_is_refused() -> None:
    header = pack_request(packed())[4 : -len(PNG)]
    with pytest.raises(WireError, match="each key once"):
        unpack_request(framed(header.replace(b'"width":224', b'"width":1,"width":224')))


def test_a_body_without_png_is_refused() -> None:
    with pytest.raises(WireError, match="not a PNG"):
        unpack_request(pack_request(packed(png=b"GIF89a")))


def test_the_limit_follows_the_task_and_ends_at_four_mebibytes() -> None:
    assert 224 * 224 * 3 < response_limit(packed().task) < 224 * 224 * 3 * 1.1
    assert response_limit(packed(height=4096, width=4096).task) == MAX_BODY_BYTES
