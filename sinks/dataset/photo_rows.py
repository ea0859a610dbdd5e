"""Rows by photograph: each photograph once, with the list of its perturbed images and what is known of each pair."""

from collections.abc import Sequence

import pyarrow as pa

from perturb.schemas.record import Row
from perturb.schemas.tier import Tier
from perturb.sinks.dataset.features import TRUTH, photo_schema


def photo_groups(rows: pa.Table, photographs: Sequence[str]) -> list[list[int]]:
    """Return for each row of the layout by photograph the places of its pairs in `rows`, in their order.

    `photographs` has the id of each pair's photograph. Pairs of one photograph whose granted truths differ are
    different rows: two networks that label it differently were two challenges.
    """
    truths = [rows[name].to_pylist() for name in TRUTH if name in rows.column_names]
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, key in enumerate(zip(photographs, *truths, strict=True)):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def photo_table(
    rows: pa.Table, photographs: Sequence[str], originals: Sequence[bytes], perturbed: Sequence[bytes], tier: Tier
) -> pa.Table:
    """Return pairs as rows by photograph, with the columns of `photo_schema`.

    `rows` has the columns of `metadata_schema`; the others have the photograph's id and the two PNGs of each pair.
    """
    schema = photo_schema(tier)
    groups = photo_groups(rows, photographs)
    order = pa.array([place for group in groups for place in group], pa.int64())
    ends = [0]
    for group in groups:
        ends.append(ends[-1] + len(group))
    offsets = pa.array(ends, pa.int32())
    firsts = [group[0] for group in groups]
    pairs = rows.drop_columns([name for name in TRUTH if name in rows.column_names]).combine_chunks()
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([photographs[first] for first in firsts], pa.string()),
        "image": image_array([originals[first] for first in firsts]),
        "adversarial": pa.ListArray.from_arrays(
            offsets, image_array([perturbed[place] for place in order.to_pylist()])
        ),
        "pairs": pa.ListArray.from_arrays(offsets, pairs.to_struct_array().combine_chunks().take(order)),
    }
    if "created_at" in schema.names:
        times = rows["created_at"].to_pylist()
        columns["created_at"] = pa.array(
            [min(times[place] for place in group) for group in groups], schema.field("created_at").type
        )
    for source, name in TRUTH.items():
        if name in schema.names:
            columns[name] = rows[source].combine_chunks().take(pa.array(firsts, pa.int64()))
    return pa.table([_plain(columns[name]).cast(schema.field(name).type) for name in schema.names], schema=schema)


def image_array(data: Sequence[bytes]) -> pa.StructArray:
    """Return PNGs as the struct by which `datasets` knows an image."""
    return pa.StructArray.from_arrays(
        [pa.array(data, pa.binary()), pa.nulls(len(data), pa.string())], names=["bytes", "path"]
    )


def pair_ids(row: Row) -> list[str]:
    """Return the sample ids of the pairs of one row by photograph."""
    return [pair["sample_id"] for pair in row["pairs"]]


def _plain(column: "pa.Array | pa.ChunkedArray") -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
