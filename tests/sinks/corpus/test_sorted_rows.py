"""The rows of a day come back sorted, whatever the order and the sizes in which they were added."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
from perturb.sinks.corpus.sorted_rows import SortedRows
from perturb.sinks.formats.parquet import rows_table

IDS = st.lists(st.text("0123456789abcdef", min_size=1, max_size=6), unique=True, max_size=40)


@settings(max_examples=50, deadline=None)
@given(IDS, st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 9))
def test_all_rows_come_back_sorted(ids: list[str], sizes: list[int], run: int, group: int) -> None:
    with SortedRows(run=run) as rows:
        together, rest, place = [], ids, 0
        while rest:
            size = max(1, sizes[place % len(sizes)])
            more, rest, place = rest[:size], rest[size:], place + 1
            together.append(rows.add(rows_table([{"record_id": one, "block": ids.index(one)} for one in more])))
        together.append(rows.finish())
        groups = list(rows.groups(group))
    assert [one for table in together if table is not None for one in table["record_id"].to_pylist()] == ids
    assert [one for table in groups for one in table["record_id"].to_pylist()] == sorted(ids)
    found = [row for table in groups for row in table.to_pylist()]
    assert all(ids[row["block"]] == row["record_id"] for row in found)
    assert all(table.num_rows <= group and table.schema == record_schema() for table in groups)


def test_columns_of_newer_programs_are_kept() -> None:
    newer = pa.schema([*record_schema(), pa.field("zeal", pa.float64()), pa.field("aim", pa.string())])
    with SortedRows(run=1) as rows:
        rows.add(rows_table([{"record_id": "b", "zeal": 0.5, "aim": "x"}], newer))
        rows.add(rows_table([{"record_id": "a"}]))
        assert rows.columns.names == [*record_schema().names, "aim", "zeal"]
        (table,) = rows.groups()
        assert table.select(["record_id", "aim", "zeal"]).to_pylist() == [
            {"record_id": "a", "aim": None, "zeal": None},
            {"record_id": "b", "aim": "x", "zeal": 0.5},
        ]
        rows.add(rows_table([{"record_id": "c"}], pa.schema([*record_schema(), pa.field("aim", pa.int64())])))
        with pytest.raises(CorpusError, match="column aim is of type int64 in one round and string in another"):
            list(rows.groups())
