"""Canonical JSON: one byte sequence for one value, so that digests and signatures can be computed over it."""

import json
from datetime import UTC, datetime


def canonical_json(value: object) -> bytes:
    """Return `value` as UTF-8 JSON with sorted keys and no spaces.

    A float is written as its shortest decimal that reads back the same, a time as `json_default` says. Raises
    ValueError for NaN and infinities, which JSON does not have, and TypeError for values that are neither JSON nor
    times.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=json_default
    ).encode()


def json_default(value: object) -> str:
    """Return a time as `2026-01-31T12:00:00.000000Z`, for `json.dumps(default=...)`. Raises TypeError for others."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")
