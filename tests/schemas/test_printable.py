"""File names of any bytes become text that a record can hold, and come back from it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.challenge import Photo
from perturb.schemas.printable import printable_name, storable_text


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_names_of_any_bytes_come_back(name: bytes) -> None:
    text = printable_name(os.fsdecode(name))
    assert text.encode().decode("unicode_escape").encode("latin-1") == name
    assert not any(ord(character) < 32 for character in text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        ("café ☕.png".encode(), "café ☕.png"),
        (b"two\nlines\\.png", r"two\x0alines\\.png"),
        ("\u202egnp.live".encode(), r"\xe2\x80\xaegnp.live"),
    ],
)
def test_only_what_cannot_be_printed_is_escaped(name: bytes, text: str) -> None:
    assert printable_name(os.fsdecode(name)) == text


def test_texts_of_a_photograph_can_always_be_stored() -> None:
    photo = Photo(None, "hub:\udce9", "1", subject="half of a pair: \ud83d", author="Zoë")  # type: ignore[arg-type]
    assert (photo.source, photo.subject, photo.author) == (r"hub:\xe9", r"half of a pair: \xed\xa0\xbd", "Zoë")
    assert storable_text("a\\b\n") == "a\\b\n"
