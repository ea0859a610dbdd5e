"""The tables beside a folder of images, as `datasets`' ImageFolder takes them: CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from perturb.schemas.errors import SourceError

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
Row = dict[str, str | None]


def read_table(table: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a table with their lines (for Parquet: numbers from 1), every value as text.

    CSV is UTF-8 with or without a byte order mark, separated by commas, semicolons or tabs. Raises SourceError that
    names the file and what is wrong.
    """
    try:
        if table.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: Iterator[tuple[int, dict[str, object]]] = enumerate(pq.read_table(table).to_pylist(), start=1)
        elif table.suffix == ".jsonl":
            rows = _json_lines(table)
        else:
            rows = _csv_rows(table)
        for number, row in rows:
            yield number, {name: None if value is None else str(value) for name, value in row.items()}
    # pyarrow's errors are ValueErrors or OSErrors.
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"{table} can't be read ({error}); accepted: {_ACCEPTED[table.suffix]}") from error


_ACCEPTED = {
    ".csv": "UTF-8 CSV with a header line",
    ".jsonl": "one JSON object a line",
    ".parquet": "a Parquet file",
}


def _csv_rows(table: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=head.count)
        for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), start=2):
            # Values beyond the header have no name.
            yield number, {name: value for name, value in row.items() if name is not None}


def _json_lines(table: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            yield number, row
