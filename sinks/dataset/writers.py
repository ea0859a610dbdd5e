"""The data files of an export: Parquet with images in it and WebDataset tars, the same bytes for the same rows.

Parquet is written in two layouts: one row a pair (`parquet`), and one row a photograph (`by_photo`).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.canonical_json import json_default
from perturb.schemas.record import Row
from perturb.schemas.tier import Layout, Tier
from perturb.sinks.dataset.features import IMAGES, PHOTO_IMAGES, metadata_schema, parquet_schema, photo_schema
from perturb.sinks.dataset.photo_rows import image_array, photo_table
from perturb.sinks.formats.parquet import Valve
from perturb.sinks.formats.tar import BLOCK, END, header
from perturb.sinks.stores.base import ObjectWriter

Format = Literal["parquet", "wds", "by_photo"]
# Every format, in the order in which files are written and listed.
FORMATS: tuple[Format, ...] = ("parquet", "wds", "by_photo")
SUFFIXES: dict[Format, str] = {"parquet": "parquet", "wds": "tar", "by_photo": "parquet"}
_FORMAT_OF: dict[Layout, Format] = {"pairs": "parquet", "wds": "wds", "by_photo": "by_photo"}

# Bytes of images in one row group before compression: far below the limit of the Hub's viewer, and a short download
# for a reader that streams.
GROUP_BYTES = 32 * 2**20
_FLUSH_BYTES = 4 * 2**20
_PHOTO_LEAVES = (PHOTO_IMAGES[0], f"{PHOTO_IMAGES[1]}.list.element")
_OF_PAIRS = ("originals", "perturbed", "photographs")


def formats_of(tier: Tier) -> tuple[Format, ...]:
    """Return the formats of a tier's export."""
    chosen = {_FORMAT_OF[layout] for layout in tier.layouts}
    return tuple(format for format in FORMATS if format in chosen)


@dataclass(frozen=True)
class PairBatch:
    """Some rows with the columns of `metadata_schema`, and for each its two PNGs and the id of its photograph."""

    rows: pa.Table
    originals: Sequence[bytes]
    perturbed: Sequence[bytes]
    photographs: Sequence[str]


class PairWriter(Protocol):
    """Appends batches of rows with their images. The file is valid after `finish` only."""

    def add(self, batch: PairBatch) -> None:
        """Append the pairs of a batch."""
        ...

    def finish(self) -> None:
        """Complete the file."""
        ...

    def abandon(self) -> None:
        """Write nothing more, not even from a destructor."""
        ...


class WdsPairWriter:
    """WebDataset: `{sample_id}.original.png`, `{sample_id}.perturbed.png`, `{sample_id}.json`; USTAR, mtime 0."""

    def __init__(self, sink: ObjectWriter, tier: Tier):
        self._sink = sink
        self._pending: list[bytes] = []
        self._bytes = 0

    def add(self, batch: PairBatch) -> None:
        """Append the pairs of a batch."""
        for row, original, changed in zip(batch.rows.to_pylist(), batch.originals, batch.perturbed, strict=True):
            key = row["sample_id"]
            self._member(f"{key}.original.png", original)
            self._member(f"{key}.perturbed.png", changed)
            self._member(f"{key}.json", row_json(row))

    def _member(self, name: str, data: bytes) -> None:
        self._pending += (header(name, len(data)), data, bytes(-len(data) % BLOCK))
        self._bytes += len(data) + BLOCK
        if self._bytes >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        # One write for many small pieces: then neither hashing nor writing waits for the other.
        self._sink.write(b"".join(self._pending))
        self._pending, self._bytes = [], 0

    def finish(self) -> None:
        """Write the end of the archive."""
        self._pending.append(END)
        self._flush()

    def abandon(self) -> None:
        """Drop the members that are not written yet."""
        self._pending = []


class ParquetPairWriter:
    """Parquet with the image columns of `datasets`, row groups cut by bytes, and a page index.

    Images are neither compressed (PNG is compressed already) nor indexed.
    """

    def __init__(self, sink: ObjectWriter, tier: Tier):
        self._schema = parquet_schema(tier)
        self._valve = Valve(sink)
        metadata = list(_leaves(metadata_schema(tier)))
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._valve, mode="w"),
            self._schema,
            # PNGs don't shrink further. A photograph is in several rows: a dictionary stores it once in a row group.
            compression=dict.fromkeys(metadata, "zstd") | dict.fromkeys(_image_leaves(), "none"),
            use_dictionary=[*metadata, "original.bytes"],
            dictionary_pagesize_limit=2 * GROUP_BYTES,
            data_page_size=2**20,
            write_statistics=metadata,
            write_page_index=True,
        )

    def add(self, batch: PairBatch) -> None:
        """Append the pairs of a batch as one row group."""
        columns = {name: batch.rows[name] for name in batch.rows.column_names}
        images = (batch.originals, batch.perturbed)
        columns |= {name: image_array(data) for name, data in zip(IMAGES, images, strict=True)}
        table = pa.table([columns[name] for name in self._schema.names], schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, batch.rows.num_rows))

    def finish(self) -> None:
        """Write the footer."""
        self._writer.close()

    def abandon(self) -> None:
        """Close Arrow's writer without its footer."""
        self._valve.shut = True
        self._writer.close()


class PhotoWriter:
    """Parquet with one row a photograph, in row groups of whole photographs that are cut by bytes.

    A photograph's pairs are in one file and come one after the other, but may come in several batches.
    """

    def __init__(self, sink: ObjectWriter, tier: Tier):
        self._tier = tier
        self._valve = Valve(sink)
        schema = photo_schema(tier)
        images = {f"{name}.{part}" for name in _PHOTO_LEAVES for part in ("bytes", "path")}
        metadata = [leaf for leaf in _leaves(schema) if leaf not in images]
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._valve, mode="w"),
            schema,
            compression=dict.fromkeys(metadata, "zstd") | dict.fromkeys(images, "none"),
            use_dictionary=metadata,
            data_page_size=2**20,
            write_statistics=metadata,
            write_page_index=True,
        )
        self._waiting: list[PairBatch] = []
        self._bytes = 0

    def add(self, batch: PairBatch) -> None:
        """Append the pairs of a batch. Those of its last photograph wait for the next one."""
        self._waiting.append(batch)
        self._bytes += sum(map(len, batch.perturbed))
        if self._bytes >= GROUP_BYTES:
            whole = _joined(self._waiting)
            last = whole.photographs.index(whole.photographs[-1])
            self._write(whole, slice(0, last))
            rest = _part(whole, slice(last, len(whole.photographs)))
            self._waiting, self._bytes = [rest], sum(map(len, rest.perturbed))

    def _write(self, batch: PairBatch, rows: slice) -> None:
        some = _part(batch, rows)
        if some.photographs:
            table = photo_table(some.rows, some.photographs, some.originals, some.perturbed, self._tier)
            self._writer.write_table(table, row_group_size=table.num_rows)

    def finish(self) -> None:
        """Write what waits, and the footer."""
        if self._waiting:
            self._write(_joined(self._waiting), slice(None))
        self._waiting = []
        self._writer.close()

    def abandon(self) -> None:
        """Close Arrow's writer without its footer."""
        self._waiting = []
        self._valve.shut = True
        self._writer.close()


WRITERS: dict[Format, Callable[[ObjectWriter, Tier], PairWriter]] = {
    "parquet": ParquetPairWriter,
    "wds": WdsPairWriter,
    "by_photo": PhotoWriter,
}


def row_json(row: Row) -> bytes:
    """Return a metadata row as JSON: every column in its order, times as ISO 8601 in UTC."""
    return json.dumps(row, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=json_default).encode()


def row_groups(image_bytes: Iterable[int]) -> list[slice]:
    """Cut rows, given the bytes of each row's images, into slices of at most `GROUP_BYTES` (at least one row each)."""
    groups, start, total, end = [], 0, 0, 0
    for end, size in enumerate(image_bytes, start=1):
        if total and total + size > GROUP_BYTES:
            groups.append(slice(start, end - 1))
            start, total = end - 1, 0
        total += size
    if end > start:
        groups.append(slice(start, end))
    return groups


def _joined(batches: Sequence[PairBatch]) -> PairBatch:
    return PairBatch(
        pa.concat_tables([batch.rows for batch in batches]),
        *([one for batch in batches for one in getattr(batch, name)] for name in _OF_PAIRS),
    )


def _part(batch: PairBatch, rows: slice) -> PairBatch:
    start, stop, _ = rows.indices(batch.rows.num_rows)
    return PairBatch(batch.rows.slice(start, stop - start), *(getattr(batch, name)[rows] for name in _OF_PAIRS))


def _image_leaves() -> list[str]:
    return [f"{image}.{part}" for image in IMAGES for part in ("bytes", "path")]


def _leaves(fields: Iterable[pa.Field], above: str = "") -> Iterable[str]:
    """Yield Parquet's names of the leaf columns below `fields`."""
    for field in fields:
        yield from _leaf(field.type, above + field.name)


def _leaf(kind: pa.DataType, path: str) -> Iterable[str]:
    if pa.types.is_struct(kind):
        yield from _leaves(kind, path + ".")
    elif pa.types.is_list(kind):
        yield from _leaf(kind.value_type, path + ".list.element")
    else:
        yield path
