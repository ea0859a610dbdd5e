"""Sorts the rows of a day by their record IDs in bounded memory."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perturb.sinks.formats.parquet import ROW_GROUP, with_record_columns


class SortedRows:
    """Takes tables in any order; gives their rows back sorted, a row group at a time.

    Each time that `run` rows have come together they are sorted and written to a temporary file. In memory are at
    most `run` rows, the IDs of all, and the row group that is read back.
    """

    def __init__(self, *, run: int = ROW_GROUP):
        self._run, self._waiting, self._rows = run, list[pa.Table](), 0
        self._runs: list[pa.Table] = []
        self._folder = tempfile.TemporaryDirectory(prefix="perturb-rows-")

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary files."""
        self._runs.clear()
        self._folder.cleanup()

    def add(self, table: pa.Table) -> pa.Table | None:
        """Take a table; return the rows that came together, in their order, each time that they are `run` or more."""
        self._waiting.append(table)
        self._rows += table.num_rows
        return self._end_run(spill=True) if self._rows >= self._run else None

    def finish(self) -> pa.Table | None:
        """Return the rows that came since `add` last returned some, or None."""
        return self._end_run(spill=False) if self._waiting else None

    @property
    def columns(self) -> pa.Schema:
        """The columns of a record, then those of newer programs. Raises CorpusError for one that has two types."""
        return with_record_columns([run.schema for run in self._runs])

    def groups(self, rows: int = ROW_GROUP) -> Iterator[pa.Table]:
        """Yield all rows with `columns` in ascending order of their IDs, at most `rows` in a table, after `finish`."""
        columns = self.columns
        starts = np.cumsum([0, *(run.num_rows for run in self._runs)])
        ids = pa.chunked_array([chunk for run in self._runs for chunk in run["record_id"].chunks], pa.string())
        order = pc.sort_indices(ids).to_numpy()
        for first in range(0, len(order), rows):
            group = order[first : first + rows]
            pieces = []
            for run, start, end in zip(self._runs, starts[:-1], starts[1:], strict=True):
                # The rows of a run are sorted, so that those of one group are neighbours in it.
                mine = group[(group >= start) & (group < end)]
                if mine.size:
                    pieces.append(run.slice(int(mine.min() - start), mine.size))
            together = pa.concat_tables([columns.empty_table(), *pieces], promote_options="default")
            yield together.select(columns.names).sort_by("record_id").combine_chunks()

    def _end_run(self, *, spill: bool) -> pa.Table:
        columns = with_record_columns([table.schema for table in self._waiting])
        tables = [table.replace_schema_metadata(None) for table in self._waiting]
        together = pa.concat_tables([columns.empty_table(), *tables], promote_options="default").combine_chunks()
        self._waiting, self._rows = [], 0
        run = together.sort_by("record_id")
        if spill:
            path = Path(self._folder.name) / f"{len(self._runs):05d}.arrow"
            with pa.ipc.new_file(str(path), run.schema) as file:
                file.write_table(run.combine_chunks())
            run = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._runs.append(run)
        return together
