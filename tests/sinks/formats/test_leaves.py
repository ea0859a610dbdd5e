"""Leaves computed column by column are those of each row, for any values that a metadata file can hold."""

from datetime import UTC

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
from perturb.sinks.formats.leaves import leaves_by_id, table_leaves
from perturb.sinks.formats.merkle import leaf_hash

TYPES: dict[pa.DataType, st.SearchStrategy[object]] = {
    pa.string(): st.text(max_size=4) | st.sampled_from(["", '"', "\\", "\x7f\u2028", "a,b", "\x00\n"]),
    pa.int64(): st.integers(-(2**53) + 1, 2**53 - 1) | st.just(2**53),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 1e21, 5e-324]),
    pa.bool_(): st.booleans(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(UTC)),
    pa.list_(pa.int64()): st.lists(st.integers(0, 999), max_size=3),
    pa.struct([("jpeg95", pa.bool_())]): st.fixed_dictionaries({"jpeg95": st.booleans() | st.none()}),
}
# Of the last two, UTF-16 sorts the second first.
NAMES = ["a", "B", "a_b", "aa", "original_shard", "z", "é", "\uffee", "\U0001f600"]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables with few rows, a few columns, many nulls and equal values."""
    rows = draw(st.integers(0, 5))
    names = draw(st.lists(st.sampled_from(NAMES), max_size=5, unique=True))
    columns = {"record_id": pa.array([f"{row:032d}" for row in range(rows)], pa.string())}
    for name in names:
        kind = draw(st.sampled_from(list(TYPES)))
        values = st.none() | st.sampled_from(draw(st.lists(TYPES[kind], min_size=1, max_size=2)))
        columns[name] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


# Tables of texts take hypothesis a while to begin with.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(tables(), st.integers(1, 3))
def test_columns_give_the_leaves_of_their_rows(table: pa.Table, pieces: int) -> None:
    rows = table.to_pylist()
    cut = pa.concat_tables([table.slice(at, pieces) for at in range(0, table.num_rows, pieces)] or [table])
    assert table_leaves(cut) == [leaf_hash(row) for row in rows]


def test_many_records_are_no_other_leaves_than_few() -> None:
    rows = [{"record_id": f"{n:032d}", "score": n / 7, "miner_uid": n, "outcome": "accepted"} for n in range(100)]
    table = pa.Table.from_pylist(rows, schema=record_schema())
    own = table.to_pylist()
    assert leaves_by_id(table, lambda: own) == {row["record_id"]: leaf_hash(row) for row in own}
    assert leaves_by_id(table, lambda: []) == leaves_by_id(table, lambda: own)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([float("nan")]),
        pa.array([float("-inf")]),
        pa.array([b"bytes"]),
        pa.array([2**53 + 1]),
        pa.array([-(2**63)]),
        pa.array([[float("inf")]]),
    ],
)
def test_what_json_cannot_hold_is_an_error_of_the_corpus(column: pa.Array) -> None:
    with pytest.raises(CorpusError, match="JSON cannot hold"):
        table_leaves(pa.table({"record_id": ["x"], "value": column}))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(CorpusError, match="two columns"):
        table_leaves(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]))
