"""The tables beside the metadata of a sealed day, which keep its manifest small.

`claims` has the rounds that the day took in, `models` the classifiers, judges and scoring policies that its rows name,
`statistics` the summaries of its main metrics, and `miners` the state of each miner at its end
(`perturb.sinks.corpus.miner_state`).
"""

import hashlib
import io
from collections.abc import Sequence
from datetime import date
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.record import Row
from perturb.sinks.corpus import miner_state
from perturb.sinks.corpus.keys import day_table_key
from perturb.sinks.corpus.manifest import FileEntry, Manifest
from perturb.sinks.formats.parquet import KEY
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.base import Store

TableKind = Literal["claims", "models", "statistics", "miners"]
SCHEMAS: dict[TableKind, pa.Schema] = {
    "claims": pa.schema(
        [
            ("date", pa.date32()),
            ("round_id", pa.string()),
            ("commit_sha256", pa.string()),
            ("merkle_root", pa.string()),
            ("records", pa.int64()),
        ]
    ),
    "models": pa.schema([("role", pa.string()), ("name", pa.string()), ("sha256", pa.string())]),
    "statistics": pa.schema(
        [
            ("column", pa.string()),
            ("count", pa.int64()),
            ("min", pa.float64()),
            ("mean", pa.float64()),
            ("max", pa.float64()),
        ]
    ),
    "miners": miner_state.SCHEMA,
}


def write_day_table(store: Store, folder: str, kind: TableKind, table: pa.Table, *, day: date) -> FileEntry:
    """Write a table of a sealed day into its folder; return the manifest's entry. The same rows give the same bytes.

    Raises CorpusError when the key is taken by other bytes.
    """
    key, sink = day_table_key(folder, kind), io.BytesIO()
    statement = canonical_json({"format": FORMAT, "kind": kind, "day": day.isoformat()})
    table = table.cast(SCHEMAS[kind]).replace_schema_metadata({KEY: statement})
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    data = sink.getvalue()
    if not store.put_new(key, data):
        raise CorpusError(f"{key} already exists with other bytes; run `perturb gc`, then seal again")
    digest = hashlib.sha256(data).hexdigest()
    return FileEntry(key=key, kind=kind, size=len(data), sha256=digest, rows=table.num_rows)


def rows_of(rows: Sequence[Row], kind: TableKind) -> pa.Table:
    """Return rows as a table of a kind."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMAS[kind])


def read_day_table(store: Store, manifest: Manifest, kind: TableKind) -> pa.Table:
    """Return a table of a sealed day after a comparison with the digest that its manifest states.

    Raises CorpusError where the manifest names none or several of that kind, and for a table of other columns;
    ObjectMissing and ObjectCorrupt.
    """
    entries = manifest.file(kind)
    if len(entries) != 1:
        raise CorpusError(f"the manifest of {manifest.day} names {len(entries)} files of kind {kind}, one is needed")
    (entry,) = entries
    data = store.get(entry.key, sha256=entry.sha256)
    try:
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{entry.key} is not readable as Parquet ({error}); restore it from a copy") from error
    if table.schema.remove_metadata() != SCHEMAS[kind] or table.num_rows != entry.rows:
        raise CorpusError(
            f"{entry.key} has {table.num_rows} rows of {', '.join(table.schema.names)}; the manifest and the format "
            f"name {entry.rows} of {', '.join(SCHEMAS[kind].names)}"
        )
    return table.replace_schema_metadata(None)


def read_state(store: Store, manifest: Manifest) -> dict[tuple[int, int], miner_state.Tenure]:
    """Return the state of miners at the end of a sealed day. Raises as `read_day_table`."""
    table = read_day_table(store, manifest, "miners")
    return miner_state.parse_state(table, manifest.file("miners")[0].key)
