"""The two tables of a certificate, pool and results: Parquet files of a fixed schema, and the trees over their rows.

The tree is RFC 6962's (`sinks/formats/merkle.py`); a leaf is the canonical JSON of a row. Rows hold text, integers and
booleans only, so that their leaves are the same everywhere.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError
from perturb.sinks.formats.merkle import merkle_root

Row = dict[str, Any]

_TEXT, _WHOLE, _YES = pa.string(), pa.int64(), pa.bool_()

POOL = pa.schema(
    [
        pa.field("identity", _TEXT, nullable=False),
        pa.field("label", _WHOLE, nullable=False),
        pa.field("label_from", _TEXT, nullable=False),
        pa.field("cluster", _TEXT, nullable=False),
        pa.field("source", _TEXT, nullable=False),
        pa.field("license", _TEXT),
    ]
)
RESULTS = pa.schema(
    [
        pa.field("index", _WHOLE, nullable=False),
        pa.field("identity", _TEXT, nullable=False),
        pa.field("label", _WHOLE, nullable=False),
        pa.field("clean_label", _WHOLE),
        pa.field("clean_margin", _TEXT),
        pa.field("level", _WHOLE, nullable=False),
        pa.field("status", _TEXT, nullable=False),
        pa.field("by", _TEXT),
        pa.field("autoattack", _YES, nullable=False),
        pa.field("grid", _YES, nullable=False),
        pa.field("crowd", _YES, nullable=False),
        pa.field("float_by", _TEXT),
        pa.field("float_only", _YES, nullable=False),
        pa.field("seed", _WHOLE),
        pa.field("forwards", _WHOLE, nullable=False),
        pa.field("backwards", _WHOLE, nullable=False),
        pa.field("perturbed", _TEXT),
        pa.field("adversarial_label", _WHOLE),
        pa.field("margin", _TEXT),
        pa.field("linf_levels", _WHOLE),
        pa.field("l0", _WHOLE),
        pa.field("psnr", _TEXT),
        pa.field("ssim", _TEXT),
        pa.field("severity", _TEXT),
        pa.field("judge_score", _TEXT),
        pa.field("hypernym_height", _WHOLE),
    ]
)


def write_table(rows: Sequence[Mapping[str, object]], schema: pa.Schema) -> bytes:
    """Return a Parquet file; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(list(rows), schema=schema),
        sink,
        compression="zstd",
        write_page_checksum=True,
        version="2.6",
    )
    return sink.getvalue()


def read_table(data: bytes, schema: pa.Schema, where: str) -> list[Row]:
    """Return the rows. Raises AuditError for a file that can't be read or has other columns."""
    try:
        found = pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise AuditError(f"{where} can't be read as Parquet ({str(error).splitlines()[0][:120]})") from error
    if not found.schema.equals(schema, check_metadata=False):
        raise AuditError(f"{where} has other columns than {', '.join(schema.names)}")
    rows: list[Row] = found.to_pylist()
    return rows


def tree_root(rows: Sequence[Mapping[str, object]]) -> str:
    """Return the root of the tree over rows in their order, 64 hex digits."""
    return merkle_root([hashlib.sha256(b"\x00" + canonical_json(dict(row))).digest() for row in rows])
