"""Metadata tables: Parquet with zstd, page index, a `perturb` key in the schema, the same bytes each time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
from perturb.sinks.formats.merkle import canonical_json
from perturb.sinks.formats.version import FORMAT, check_format

KEY = b"perturb"
ROW_GROUP = 16_384


class TableWriter:
    """Writes record rows to a file that `write`s and `tell`s, in row groups of bounded size.

    `brief` suits tables of a few hundred rows: no dictionaries and no page index, which would outweigh the data.
    """

    def __init__(self, sink: Any, *, statement: Mapping[str, Any], brief: bool = False):
        schema = record_schema().with_metadata({KEY: canonical_json({"format": FORMAT, **statement})})
        self._writer = pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression="zstd",
            compression_level=1 if brief else 3,
            use_dictionary=not brief,
            write_page_index=not brief,
            write_page_checksum=True,
        )
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append rows of the record schema as row groups of their own."""
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.rows += table.num_rows

    def abort(self) -> None:
        """Give up: the file is dropped, so nothing more may be written into it, by a destructor neither."""
        self._writer.is_open = False

    def finish(self) -> None:
        """Write the footer. Without it the file is no Parquet."""
        self._writer.close()


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of every record column as an Arrow table."""
    return pa.Table.from_pylist(list(rows), schema=record_schema())


def read_statement(schema: pa.Schema, where: str) -> dict[str, Any]:
    """The `perturb` entry of a table's schema metadata. Raises CorpusError if missing or of a newer format."""
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        raise CorpusError(f"{where} carries no perturb entry; it was not written by this pipeline")
    try:
        statement = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"{where} carries a perturb entry that is not JSON; restore it from a copy") from error
    check_format(statement.get("format") if isinstance(statement, dict) else None, where)
    return dict(statement)


def open_table(source: Any, where: str) -> pq.ParquetFile:
    """A Parquet file of records. Raises CorpusError if it is none, or has columns that this program doesn't know."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is not readable as Parquet ({error}); restore it from a copy") from error
    read_statement(file.schema_arrow, where)
    known = record_schema()
    for field in file.schema_arrow:
        if field.name not in known.names or known.field(field.name).type != field.type:
            raise CorpusError(f"{where} has column {field.name}: {field.type}, which a record has not")
    return file


def read_table(file: pq.ParquetFile, where: str) -> pa.Table:
    """A small table as a whole, with its own columns."""
    try:
        return file.read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error


def read_rows(file: pq.ParquetFile, where: str, *, batch: int = 4096) -> Iterator[list[dict[str, Any]]]:
    """Rows as they stand in the file (its own columns), a few thousand at a time."""
    try:
        for piece in file.iter_batches(batch_size=batch):
            yield piece.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error
