"""Commitments of the model track: one text for one meaning, of one hotkey."""

import hashlib
import json
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.commitment import CommitmentRefused, ModelCommitment

ALICE, BOB = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY", "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty"
URL = "https://example.com/w.safetensors"
VALID = ModelCommitment.of(b"weights", hotkey=ALICE, url=URL)


def test_a_commitment_binds_weights_and_hotkey() -> None:
    expected = hashlib.sha256(b"weights" + ALICE.encode()).hexdigest()[:32]
    assert VALID.text() == f'{{"h":"{expected}","u":"{URL}"}}'
    assert ModelCommitment.parse(VALID.text()) == VALID
    assert VALID.is_of(b"weights", ALICE)
    assert not VALID.is_of(b"weights", BOB)
    assert not VALID.is_of(b"weightz", ALICE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("ab" * 32, "not JSON"),
        ("[" * 128, "not JSON"),
        ("null", "accepted: canonical JSON"),
        (VALID.text().replace(":", ": ", 1), "not canonical"),
        (VALID.text().replace('"u"', '"h":"' + "0" * 32 + '","u"'), "more than 128 bytes|not canonical"),
        (VALID.text()[:-1] + ',"x":1}', "x: Extra inputs"),
        (json.dumps({"h": "A" * 32, "u": URL}), "h: String should match"),
        (json.dumps({"h": "a" * 32, "u": 7}), "u: Input should be a valid string"),
        (VALID.text().replace(URL, URL + "x" * 49), "more than 128 bytes"),
        *(
            (VALID.text().replace(URL, address), "not an address")
            for address in ("file:///etc/passwd", "https://a@b/w", "https://a\\\\b/w", "ftp://a/b", "https://", "https://ä/w")
        ),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_is_accepted(text: str, words: str) -> None:
    with pytest.raises(CommitmentRefused, match=words):
        ModelCommitment.parse(text)


def test_an_address_that_is_too_long_is_told_how_long_it_may_be() -> None:
    with pytest.raises(CommitmentRefused, match=r"200 characters does not fit .* at most \d+") as refused:
        ModelCommitment.of(b"weights", hotkey=ALICE, url=f"https://{'a' * 192}")
    longest = int(str(refused.value).split()[-1])
    for length, fits in ((longest, True), (longest + 1, False)):
        with nullcontext() if fits else pytest.raises(CommitmentRefused):
            assert ModelCommitment.of(b"weights", hotkey=ALICE, url=f"https://{'a' * (length - 8)}")


@given(st.text(max_size=140))
def test_no_text_raises_another_error(text: str) -> None:
    for candidate in (text, VALID.text()[:50] + text, VALID.text().replace(URL, text)):
        try:
            parsed = ModelCommitment.parse(candidate)
        except CommitmentRefused:
            continue
        assert parsed.text() == candidate
