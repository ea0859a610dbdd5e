"""Metadata tables: Parquet with zstd and a `perturb` key in the schema. The same rows give the same bytes."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import Row, record_schema
from perturb.sinks.formats.canonical_json import canonical_json
from perturb.sinks.formats.version import FORMAT, check_format
from perturb.sinks.stores.base import Buffer, ByteSink

KEY = b"perturb"
ROW_GROUP = 16_384
_BATCH = 4096


class Valve(io.RawIOBase):
    """A file for Arrow's Parquet writer that passes bytes to `sink`, and drops them once `shut` is set.

    Arrow's writer writes a footer even when it is only collected as garbage, after an error for example. The file
    below is dropped then, and its descriptor may belong to another file.
    """

    def __init__(self, sink: ByteSink):
        self._sink = sink
        self.shut = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Buffer, /) -> int:  # type: ignore[override]
        """Write all of `data` unless the valve is shut; return its length in bytes."""
        if not self.shut:
            self._sink.write(data)
        return memoryview(data).nbytes

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._sink.tell()


class TableWriter:
    """Writes tables of records in row groups of bounded size. `rows` counts them."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Append the rows of a table with the record schema, as row groups of their own."""
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self.rows += table.num_rows


@contextmanager
def table_writer(sink: ByteSink, *, statement: Mapping[str, object], brief: bool = False) -> Iterator[TableWriter]:
    """Yield a writer of records into `sink`. The footer is written when the block ends, and never when it raises.

    `statement` becomes the `perturb` entry of the schema metadata. `brief` suits tables of a few hundred rows: it
    leaves out dictionaries and the page index, which would take more bytes than the data.
    """
    schema = record_schema().with_metadata({KEY: canonical_json({"format": FORMAT, **statement})})
    valve = Valve(sink)
    writer = pq.ParquetWriter(
        pa.PythonFile(valve, mode="w"),
        schema,
        compression="zstd",
        compression_level=1 if brief else 3,
        use_dictionary=not brief,
        write_page_index=not brief,
        write_page_checksum=True,
    )
    try:
        yield TableWriter(writer)
        writer.close()
    except BaseException:
        valve.shut = True
        raise


def rows_table(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Return rows with all record columns as an Arrow table of the record schema."""
    return pa.Table.from_pylist(list(rows), schema=record_schema())


def read_statement(schema: pa.Schema, where: str) -> dict[str, Any]:
    """Return the `perturb` entry of a table's schema metadata.

    Raises CorpusError when it is missing, is not JSON, or has a format version that this program does not read.
    """
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        raise CorpusError(f"{where} has no perturb entry in its schema; it was not written by this pipeline")
    try:
        statement = json.loads(text)
    except ValueError as error:
        raise CorpusError(f"{where} has a perturb entry that is not JSON; restore it from a copy") from error
    check_format(statement.get("format") if isinstance(statement, dict) else None, where)
    return dict(statement)


def open_table(source: "Path | str | pa.NativeFile", where: str) -> pq.ParquetFile:
    """Open a Parquet file of records. Raises CorpusError when it is not one, or has columns that a record does not."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is not readable as Parquet ({error}); restore it from a copy") from error
    read_statement(file.schema_arrow, where)
    known = record_schema()
    for field in file.schema_arrow:
        if field.name not in known.names or known.field(field.name).type != field.type:
            raise CorpusError(f"{where} has column {field.name} of type {field.type}, which records do not have")
    return file


def read_table(file: pq.ParquetFile, where: str) -> pa.Table:
    """Return a small table as a whole, with the columns that the file has. Raises CorpusError when it is damaged."""
    try:
        return file.read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error


def read_rows(file: pq.ParquetFile, where: str) -> Iterator[list[Row]]:
    """Yield rows with the columns that the file has, thousands at a time. Raises CorpusError when it is damaged."""
    try:
        for piece in file.iter_batches(batch_size=_BATCH):
            yield piece.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error
