"""Metadata tables: Parquet with zstd and a `perturb` key in the schema. The same rows give the same bytes."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
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
def table_writer(
    sink: ByteSink, *, statement: Mapping[str, object], brief: bool = False, columns: pa.Schema | None = None
) -> Iterator[TableWriter]:
    """Yield a writer of records into `sink`. The footer is written when the block ends, and never when it raises.

    `columns` are those of the table (default: those of a record), whose rows come in ascending order of their IDs.
    `statement` becomes the `perturb` entry of the schema metadata. `brief` suits tables of a few hundred rows: it
    leaves out dictionaries and the page index, which would take more bytes than the data.
    """
    schema = (columns or record_schema()).with_metadata({KEY: canonical_json({"format": FORMAT, **statement})})
    valve = Valve(sink)
    writer = pq.ParquetWriter(
        pa.PythonFile(valve, mode="w"),
        schema,
        compression="zstd",
        compression_level=1 if brief else 3,
        use_dictionary=not brief,
        write_page_index=not brief,
        write_page_checksum=True,
        sorting_columns=pq.SortingColumn.from_ordering(schema, [("record_id", "ascending")]),
    )
    try:
        yield TableWriter(writer)
        writer.close()
    except BaseException:
        valve.shut = True
        raise


def rows_table(rows: Sequence[Mapping[str, object]], columns: pa.Schema | None = None) -> pa.Table:
    """Return rows as an Arrow table with `columns` (default: those of a record); what a row lacks is null."""
    return pa.Table.from_pylist(list(rows), schema=columns or record_schema())


def with_record_columns(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the record schema and, behind it, the columns of `schemas` that only newer programs know, by name.

    Raises CorpusError for such a column that has two types.
    """
    known, more = record_schema(), dict[str, pa.Field]()
    for field in (field for schema in schemas for field in schema if field.name not in known.names):
        if more.setdefault(field.name, field).type != field.type:
            raise CorpusError(
                f"column {field.name} is of type {field.type} in one round and {more[field.name].type} in another; "
                "rounds of these two cannot be sealed as one day"
            )
    return pa.schema([*known, *(more[name].remove_metadata() for name in sorted(more))])


def read_statement(file: pq.ParquetFile, where: str) -> bytes:
    """Return the `perturb` entry of a file's key-value metadata, JSON as it was written.

    Raises CorpusError when it is missing, is not JSON, or has a format version that this program does not read.
    """
    text: bytes | None = (file.metadata.metadata or {}).get(KEY)
    if text is None:
        raise CorpusError(f"{where} has no perturb entry in its metadata; it was not written by this pipeline")
    try:
        statement = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} has a perturb entry that is not JSON; restore it from a copy") from error
    check_format(statement.get("format") if isinstance(statement, dict) else None, where)
    return text


def open_table(source: "Path | str | pa.NativeFile", where: str) -> pq.ParquetFile:
    """Open a Parquet file of records.

    A column that this program does not know is one that a newer one added, and is accepted where it may be null and
    has a type that leaves can hold. Raises CorpusError for another one, for a record's column of another type, for two
    columns of one name, and when the file is not Parquet.
    """
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{where} is not readable as Parquet ({error}); restore it from a copy") from error
    read_statement(file, where)
    schema = file.schema_arrow
    # Usually; to look at each field takes as long as to read a small table.
    if not schema.equals(record_schema()):
        _check_columns(schema, where)
    return file


def _check_columns(schema: pa.Schema, where: str) -> None:
    known = _record_types()
    if len(set(schema.names)) < len(schema.names):
        raise CorpusError(f"{where} has two columns of one name; restore it from a copy")
    for field in schema:
        if (type := known.get(field.name)) is not None:
            accepted = type == field.type
        else:
            accepted = field.nullable and _in_leaves(field.type)
        if not accepted:
            raise CorpusError(
                f"{where} has column {field.name} of type {field.type}{'' if field.nullable else ' not null'}, which "
                "records do not have and no program may add"
            )


@cache
def _record_types() -> dict[str, pa.DataType]:
    return {field.name: field.type for field in record_schema()}


def _in_leaves(type: pa.DataType) -> bool:
    """Return whether canonical JSON has one form for each value of a type."""
    if pa.types.is_list(type):
        return _in_leaves(type.value_type)
    if pa.types.is_struct(type):
        members = [type.field(place) for place in range(type.num_fields)]
        return len({one.name for one in members}) == len(members) and all(_in_leaves(one.type) for one in members)
    return type in (pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", tz="UTC"))


def read_table(file: pq.ParquetFile, where: str) -> pa.Table:
    """Return a small table as a whole, with the columns that the file has.

    Raises CorpusError when it is damaged, or has text that is not Unicode.
    """
    try:
        table = file.read(use_threads=False)
        # Reading does not look at the bytes of texts.
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error


def read_tables(file: pq.ParquetFile, where: str) -> Iterator[pa.Table]:
    """Yield rows as tables with the columns that the file has, thousands at a time.

    Raises CorpusError when it is damaged.
    """
    try:
        for piece in file.iter_batches(batch_size=_BATCH):
            yield pa.Table.from_batches([piece])
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{where} is damaged ({error}); restore it from a copy") from error
