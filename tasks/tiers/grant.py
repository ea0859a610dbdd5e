"""Which rows of a sealed day a tier gets, and what of each row it sees. The one place where a grant is applied.

Everything downstream (files, statistics, cards, plots) is made from a `Selection`'s `public` table alone, so nothing
that isn't in it can come out.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS
from perturb.schemas.tier import Tier
from perturb.sinks.dataset.features import metadata_schema
from perturb.tasks.tiers.predicate import check_predicate, matching

SPLITS = ("train", "validation", "test")
# Of a thousand photographs, how many go into validation and test.
VALIDATION_PER_MILLE, TEST_PER_MILLE = 50, 50
# What it takes to fetch an image and to see that it is the right one.
_FETCH = (*POINTERS, "body_sha256", "height", "width")
_WORKING = ("outcome", "original_sha256", "perturbed_sha256", "created_at", "record_id", *_FETCH)


@dataclass(frozen=True)
class Selection:
    """The rows of one day that a tier gets, in the order in which they are exported.

    `public` holds what may leave (`perturb.sinks.dataset.features.metadata_schema`); `pointers` says, row by row,
    where the images are and what they must be (`original_*`, `perturbed_*`, `body_sha256`) and stays inside; `split`
    names each row's split.
    Rows are ordered by split, photograph and sample id, which says nothing about miners or the time of their answers.
    """

    public: pa.Table
    pointers: pa.Table
    split: list[str]


def sample_id(original_sha256: str, perturbed_sha256: str) -> str:
    """The public id of a pair, 32 hex digits, from what its holder has anyway.

    The record's own id is a hash over the miner's hotkey, and there are only so many hotkeys: neither that id nor
    anything that depends on it (sampling, order) may stand in a tier that hides the miner.
    """
    return hashlib.sha256(f"{original_sha256}|{perturbed_sha256}".encode()).hexdigest()[:32]


def sampled(identifier: str, fraction: float) -> bool:
    """Whether a sample id, read as a number in 0..1, is below `fraction`."""
    return int(identifier[:13], 16) < fraction * 16**13


def split_of(original_sha256: str) -> str:
    """The split of a photograph: by hash, so that it never stands in two."""
    draw = int(hashlib.sha256(f"split|{original_sha256}".encode()).hexdigest()[:13], 16) * 1000 // 16**13
    if draw < TEST_PER_MILLE:
        return "test"
    return "validation" if draw < TEST_PER_MILLE + VALIDATION_PER_MILLE else "train"


def pseudonym(key: bytes, *, tier: str, hotkey: str) -> str:
    """A miner's name within one tier: 80 bits of HMAC-SHA256, which nobody inverts or links to another tier's."""
    return "m-" + hmac.new(key, f"{tier}|{hotkey}".encode(), hashlib.sha256).hexdigest()[:20]


def needed_columns(tier: Tier) -> list[str]:
    """The record columns that `select` reads for this tier; the rest of the metadata need not be loaded."""
    needed = {*check_predicate(tier.where), *tier.granted, *_WORKING}
    for sql in tier.views.values():
        needed |= check_predicate(sql)
    if tier.miner == "pseudonym":
        needed.add("miner_hotkey")
    return sorted(needed)


def select(table: pa.Table, tier: Tier, *, key: bytes) -> Selection:
    """Apply the whole grant of `tier` to the metadata of one sealed day (`needed_columns` suffice).

    Accepted rows only; of a pair that occurs twice, the earlier. `key` keys the pseudonyms.
    """
    rows = table.filter(pc.field("outcome") == str(Outcome.ACCEPTED))
    rows = rows.filter(matching(rows, {"kept": tier.where})["kept"])
    ids = [
        sample_id(original, perturbed)
        for original, perturbed in zip(
            rows["original_sha256"].to_pylist(), rows["perturbed_sha256"].to_pylist(), strict=True
        )
    ]
    rows = rows.append_column("__sample_id", pa.array(ids, pa.string()))
    rows = rows.filter(pa.array([sampled(identifier, tier.fraction) for identifier in ids], pa.bool_()))
    rows = _first_of_each(rows)
    splits = [split_of(original) for original in rows["original_sha256"].to_pylist()]
    rows = rows.append_column("__split", pa.array([SPLITS.index(split) for split in splits], pa.int8()))
    rows = rows.sort_by([("__split", "ascending"), ("original_sha256", "ascending"), ("__sample_id", "ascending")])
    return Selection(
        public=_public(rows, tier, key),
        pointers=rows.select(list(_FETCH)).combine_chunks(),
        split=[SPLITS[number] for number in rows["__split"].to_pylist()],
    )


def _first_of_each(rows: pa.Table) -> pa.Table:
    ordered = rows.sort_by([("created_at", "ascending"), ("record_id", "ascending")])
    _, first = np.unique(np.asarray(ordered["__sample_id"].to_pylist(), dtype=object).astype(str), return_index=True)
    return ordered.take(pa.array(np.sort(first), pa.int64()))


def _public(rows: pa.Table, tier: Tier, key: bytes) -> pa.Table:
    schema = metadata_schema(tier)
    columns: dict[str, Any] = {"sample_id": rows["__sample_id"]}
    if tier.miner == "pseudonym":
        names = {
            hotkey: pseudonym(key, tier=tier.name, hotkey=hotkey) for hotkey in set(rows["miner_hotkey"].to_pylist())
        }
        columns["miner_pseudonym"] = pa.array(
            [names[hotkey] for hotkey in rows["miner_hotkey"].to_pylist()], pa.string()
        )
    for name in tier.granted:
        columns[name] = _finite(rows[name])
    if "near_duplicate_of" in columns:
        columns["near_duplicate_of"] = _within(rows, "record_id" if "record_id" in tier.granted else "__sample_id")
    if tier.views:
        # Views see what the subscriber sees, so that they can be recomputed from the export.
        granted = pa.table({name: columns[name] for name in tier.granted})
        held = matching(granted, dict(tier.views))
        columns |= {view: held[view] for view in tier.views}
    return pa.table([columns[name] for name in schema.names], schema=schema).combine_chunks()


def _within(rows: pa.Table, identifier: str) -> pa.Array:
    """`near_duplicate_of`, pointing to rows that are exported and under the name they have there; else null."""
    exported = dict(zip(rows["record_id"].to_pylist(), rows[identifier].to_pylist(), strict=True))
    return pa.array([exported.get(other) for other in rows["near_duplicate_of"].to_pylist()], pa.string())


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Neither JSON nor SQL agree on what NaN and infinities are: they leave as null."""
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.fill_null(pc.is_finite(column), False), column, pa.scalar(None, column.type))
    if pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array([_finite_value(value) for value in column.to_pylist()], column.type)])
    return column


def _finite_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
