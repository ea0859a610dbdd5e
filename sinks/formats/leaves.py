"""Merkle leaves of many records at once, column by column: the same bytes as `leaf_hash` of each row, faster.

In a round most columns have one value or few, so that each value is encoded once, and neighbouring columns of one value
once together.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import repeat

import pyarrow as pa

from perturb.schemas.canonical_json import canonical_json, canonical_members
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import POINTERS, Row
from perturb.sinks.formats.merkle import leaf_hash

#: Of fewer rows each by itself is faster.
MANY = 64

# The members of a column: bytes that all rows share, or bytes for each row. Each member begins with a comma, so that
# one that is null is nothing.
_Members = bytes | list[bytes]


def leaves_by_id(table: pa.Table, rows: Callable[[], Sequence[Row]]) -> dict[str, bytes]:
    """Return the leaf of each record ID of a metadata table; `rows` gives the same rows as dictionaries.

    Raises CorpusError as `table_leaves`.
    """
    few = table.num_rows < MANY
    leaves = [leaf_hash(row) for row in rows()] if few else table_leaves(table)
    return dict(zip(table["record_id"].to_pylist(), leaves, strict=True))


def table_leaves(table: pa.Table) -> list[bytes]:
    """Return the leaf of each row of a metadata table, 32 bytes each.

    Raises CorpusError for NaN and infinities, for values that JSON does not have, and where two columns share a name.
    """
    names = sorted((name for name in table.schema.names if name not in POINTERS), key=_utf16)
    if len(set(names)) < len(names):
        raise CorpusError("two columns of the metadata have one name")
    try:
        columns = _merged([_members(name, table.column(name)) for name in names])
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise CorpusError(f"a record has a value that JSON cannot hold: {error}") from error
    shared = [repeat(column, table.num_rows) if isinstance(column, bytes) else column for column in columns]
    rows = zip(*shared, strict=True) if shared else repeat((), table.num_rows)
    return [hashlib.sha256(b"\x00{" + b"".join(members)[1:] + b"}").digest() for members in rows]


def _utf16(name: str) -> bytes:
    """Return what RFC 8785 sorts names by."""
    return name.encode("utf-16-be")


def _merged(columns: Sequence[_Members]) -> list[_Members]:
    """Return columns with neighbours that all rows share put together."""
    found: list[_Members] = []
    for column in columns:
        if found and isinstance(column, bytes) and isinstance(found[-1], bytes):
            found[-1] += column
        else:
            found.append(column)
    return found


def _members(name: str, column: pa.ChunkedArray) -> _Members:
    """Return `,"name":value` for the rows of a column, nothing for nulls."""
    start = b"," + canonical_json(name) + b":"
    if pa.types.is_nested(column.type):
        # Lists and structs have no dictionary.
        return [b"" if value is None else start + canonical_json(value) for value in column.to_pylist()]
    coded = column.combine_chunks().dictionary_encode()
    texts = [start + text for text in _texts(coded.dictionary)]
    if coded.null_count == len(coded):
        return b""
    if len(texts) == 1 and not coded.null_count:
        return texts[0]
    if len(texts) == len(coded):
        # All differ, so that they are in the order of the rows.
        return texts
    # Nulls take the last place.
    return [*map([*texts, b""].__getitem__, coded.indices.fill_null(len(texts)).to_pylist())]


def _texts(values: pa.Array) -> list[bytes]:
    """Return distinct values as canonical JSON."""
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return canonical_members(values.to_pylist())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return canonical_members(values.to_numpy())
    return [canonical_json(value) for value in values.to_pylist()]
