"""Canonical JSON agrees with an independent implementation of RFC 8785, whichever way it was written."""

import json
import math
from datetime import UTC, datetime

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.canonical_json import canonical_json

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = FLOATS | st.integers(-(2**53) + 1, 2**53 - 1) | st.sampled_from([1.0, -0.0, 1e16, 1e21, 1e-7, 0.0001, 5e-324])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda members: st.lists(members) | st.dictionaries(st.text(), members),
    max_leaves=20,
)


@given(VALUES)
def test_it_is_rfc_8785(value: object) -> None:
    written = canonical_json(value)
    assert written == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert canonical_json(json.loads(written)) == written


def test_numbers_are_those_of_the_specification() -> None:
    # RFC 8785, section 3.2.2 and appendix B.
    assert canonical_json([333333333.33333329, 1e30, 4.50, 2e-3, 1e-27]) == b"[333333333.3333333,1e+30,4.5,0.002,1e-27]"
    assert canonical_json({"\U0001f600": 1, "\ufb33": 2}) == '{"\U0001f600":1,"\ufb33":2}'.encode()
    assert canonical_json({"b": (1.0, None), "a": True}) == b'{"a":true,"b":[1,null]}'


def test_times_are_text() -> None:
    assert canonical_json([datetime(2026, 1, 31, 12, tzinfo=UTC)]) == b'["2026-01-31T12:00:00.000000Z"]'
    assert canonical_json([datetime(2026, 1, 31, 12, tzinfo=UTC), 1e-9]) == b'["2026-01-31T12:00:00.000000Z",1e-9]'


@pytest.mark.parametrize("value", [math.nan, -math.inf, 2**53 + 1, "\ud800", {"a": [math.inf]}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical_json(value)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="of type bytes"):
        canonical_json({"a": b""})
