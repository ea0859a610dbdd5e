"""Canonical JSON (RFC 8785): one byte sequence for one value in every language, for digests and signatures."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import rfc8785

# Of floats in this range, and of zero, the shortest decimal is written as RFC 8785 wants, apart from a final ".0".
_LEAST_USUAL, _FIRST_UNUSUAL = 1e-4, 2.0**53
_LAST_INTEGER = 2**53 - 1
# From here on doubles are written with an exponent.
_FIRST_EXPONENT = 10**21


class _UnusualError(Exception):
    """A number or a key that orjson writes or sorts in another way than RFC 8785."""


def canonical_json(value: object) -> bytes:
    """Return `value` as canonical JSON: UTF-8, sorted keys, no spaces, numbers as ECMAScript writes them.

    A time is written as `json_default` says. Raises ValueError for NaN and infinities, integers that are no
    double's shortest text, text that is not Unicode, and TypeError for values that are neither JSON nor times.
    """
    # orjson is many times as fast and differs for few values, which never occur in most records.
    try:
        return orjson.dumps(_usual(value), option=orjson.OPT_SORT_KEYS)
    except (_UnusualError, orjson.JSONEncodeError):
        return rfc8785.dumps(_plain(value))


def canonical_members(values: Sequence[str] | np.ndarray) -> list[bytes]:
    """Return each of many texts, or of many int64 or float64 numbers, as canonical JSON.

    It is `canonical_json` of each, faster. Raises ValueError for NaN, infinities and integers as that does, and
    TypeError for text that is not Unicode.
    """
    if not len(values):
        return []
    if isinstance(values, np.ndarray):
        # No number has a comma.
        return _numbers(values)[1:-1].split(b",")
    together = orjson.dumps(values)
    if together.count(b'"') > 2 * len(values):
        # A text has quotes, so that the texts cannot be told apart by them.
        return [canonical_json(value) for value in values]
    return [b'"' + text + b'"' for text in together[2:-2].split(b'","')]


def _numbers(values: np.ndarray) -> bytes:
    if values.dtype.kind == "f":
        size = np.abs(values)
        usual = (size >= _LEAST_USUAL) & (size < _FIRST_UNUSUAL) & (size != np.floor(size))
    else:
        usual = (values >= -_LAST_INTEGER) & (values <= _LAST_INTEGER)
    return orjson.dumps(values.tolist()) if usual.all() else canonical_json(values.tolist())


def json_default(value: object) -> str:
    """Return a time as `2026-01-31T12:00:00.000000Z`, for `json.dumps(default=...)`. Raises TypeError for others."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")


def _usual(value: object) -> object:
    """Return a value that orjson writes as RFC 8785 wants. Raises _UnusualError where there is none."""
    kind = type(value)
    if kind is dict:
        return _usual_members(value)  # type: ignore[arg-type]
    if kind is str or value is None or kind is bool:
        return value
    if kind is float:
        return _usual_float(value)  # type: ignore[arg-type]
    if kind is int:
        if -_LAST_INTEGER <= value <= _LAST_INTEGER:  # type: ignore[operator]
            return value
        raise _UnusualError
    if kind is list or kind is tuple:
        return [_usual(member) for member in value]  # type: ignore[attr-defined]
    if isinstance(value, datetime):
        return json_default(value)
    raise _UnusualError


def _usual_members(value: dict[object, object]) -> dict[str, object]:
    """Return `_usual` of a dictionary. A record has dozens of members, so that texts and nulls are passed by here."""
    usual: dict[str, object] = {}
    for key, member in value.items():
        if type(key) is not str or not key.isascii():
            raise _UnusualError
        kind = type(member)
        usual[key] = member if kind is str or member is None or kind is bool else _usual(member)
    return usual


def _usual_float(value: float) -> float | int:
    if _LEAST_USUAL <= value < _FIRST_UNUSUAL or _LEAST_USUAL <= -value < _FIRST_UNUSUAL:
        return int(value) if value.is_integer() else value
    if value == 0:
        return 0
    raise _UnusualError


def _plain(value: object) -> Any:
    """Return a value of JSON's own types, for `rfc8785`, which refuses what it cannot write."""
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if type(value) is int and _LAST_INTEGER < abs(value) < _FIRST_EXPONENT:
        # All numbers of JSON are doubles. What a large one was written as reads back as an integer in Python.
        double = float(value)
        return double if rfc8785.dumps(double) == str(value).encode() else value
    if value is None or isinstance(value, str | int | float):
        return value
    return json_default(value)
