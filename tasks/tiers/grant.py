"""Apply a tier's grant to a sealed day: which rows leave, and which columns of them. This happens here only.

Files, statistics, cards and figures are made from the `public` table of `GrantedRows` alone, so nothing that is not in
it can be exported.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perturb.schemas.outcome import Outcome
from perturb.schemas.record import POINTERS
from perturb.schemas.tier import SPLITS, Tier
from perturb.sinks.dataset.features import metadata_schema
from perturb.tasks.tiers.identifiers import Identifiers, in_fraction, pair_id
from perturb.tasks.tiers.predicate import check_predicate, matching

# Of a thousand photographs, the number in validation and in test.
VALIDATION_PER_MILLE, TEST_PER_MILLE = 50, 50
# The columns with which an image is fetched, checked and named in an error.
_FETCH = ("record_id", *POINTERS, "body_sha256", "original_sha256", "perturbed_sha256", "height", "width")
_WORKING = ("outcome", "created_at", *_FETCH)


@dataclass(frozen=True)
class GrantedRows:
    """The rows of one day that a tier gets, in the order in which they are exported.

    `public` has the columns that may leave (`perturb.sinks.dataset.features.metadata_schema`). `pointers` says for each
    row where its images are and how to check them (`original_*`, `perturbed_*`, `body_sha256`), `pairs` its id that is
    the same in every tier; neither is ever exported. `photographs` has the tier's own id of each row's photograph,
    `split` names each row's split. Rows are ordered by split and by the tier's own ids of photograph and pair, which
    tells nothing about miners, the time of their answers, or the order of another tier.
    """

    public: pa.Table
    pointers: pa.Table
    pairs: list[str]
    photographs: list[str]
    split: list[str]


def split_of(original_sha256: str) -> str:
    """Return the split of a photograph. It depends on the pixels alone, so that no photograph is in two splits."""
    per_mille = split_place(original_sha256) * 1000 // 16**13
    if per_mille < TEST_PER_MILLE:
        return "test"
    return "validation" if per_mille < TEST_PER_MILLE + VALIDATION_PER_MILLE else "train"


def split_place(original_sha256: str) -> int:
    """Return where a photograph lies among all, 0 to 16**13 - 1: the first are the test split, then validation."""
    return int(hashlib.sha256(f"split|{original_sha256}".encode()).hexdigest()[:13], 16)


def needed_columns(tier: Tier) -> list[str]:
    """Return the record columns that `grant` reads for this tier; no other column of the metadata need be loaded."""
    needed = {*check_predicate(tier.where), *tier.granted, *_WORKING}
    for sql in tier.views.values():
        needed |= check_predicate(sql)
    if tier.miner == "pseudonym":
        needed.add("miner_hotkey")
    return sorted(needed)


def grant(table: pa.Table, tier: Tier, *, key: bytes) -> GrantedRows:
    """Apply the whole grant of `tier` to the metadata of one sealed day, which needs `needed_columns` only.

    Refused rows never leave. Of a pair that occurs twice on the day, the earlier row is taken. `key` is the operator's
    secret; it matters where the tier is `keyed`.
    """
    names = Identifiers(tier, key)
    rows = table.filter(pc.field("outcome") == str(Outcome.ACCEPTED))
    rows = rows.filter(matching(rows, {"kept": tier.where})["kept"])
    images = zip(rows["original_sha256"].to_pylist(), rows["perturbed_sha256"].to_pylist(), strict=True)
    pairs = [pair_id(original, perturbed) for original, perturbed in images]
    rows = rows.append_column("__pair", pa.array(pairs, pa.string()))
    if tier.fraction < 1:
        rows = rows.filter(pa.array([in_fraction(pair, tier.fraction, key=key) for pair in pairs], pa.bool_()))
    rows = _in_order(_first_of_each(rows), names)
    return GrantedRows(
        public=_public(rows, tier, names),
        pointers=rows.select(list(_FETCH)).combine_chunks(),
        pairs=rows["__pair"].to_pylist(),
        photographs=rows["__photograph"].to_pylist(),
        split=[SPLITS[number] for number in rows["__split"].to_pylist()],
    )


def _first_of_each(rows: pa.Table) -> pa.Table:
    ordered = rows.sort_by([("created_at", "ascending"), ("record_id", "ascending")])
    _, first = np.unique(np.asarray(ordered["__pair"].to_pylist(), dtype=object).astype(str), return_index=True)
    return ordered.take(pa.array(np.sort(first), pa.int64()))


def _in_order(rows: pa.Table, names: Identifiers) -> pa.Table:
    """Add the split and the tier's ids of photograph and pair to each row, and sort by them."""
    originals = rows["original_sha256"].to_pylist()
    added = {
        "__split": pa.array([SPLITS.index(split_of(original)) for original in originals], pa.int8()),
        "__photograph": pa.array([names.photograph(original) for original in originals], pa.string()),
        "__sample_id": pa.array([names.sample(pair) for pair in rows["__pair"].to_pylist()], pa.string()),
    }
    for name, values in added.items():
        rows = rows.append_column(name, values)
    return rows.sort_by([(name, "ascending") for name in added])


def _public(rows: pa.Table, tier: Tier, names: Identifiers) -> pa.Table:
    schema = metadata_schema(tier)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"sample_id": rows["__sample_id"]}
    if tier.miner == "pseudonym":
        hotkeys = rows["miner_hotkey"].to_pylist()
        pseudonyms = {hotkey: names.pseudonym(hotkey) for hotkey in set(hotkeys)}
        columns["miner_pseudonym"] = pa.array([pseudonyms[hotkey] for hotkey in hotkeys], pa.string())
    for name in tier.granted:
        columns[name] = _finite(rows[name])
    if "near_duplicate_of" in columns:
        columns["near_duplicate_of"] = _within(rows, "record_id" if "record_id" in tier.granted else "__sample_id")
    if tier.views:
        # Views read only what the subscriber gets, so that they can be recomputed from the export.
        granted = pa.table({name: columns[name] for name in tier.granted})
        held = matching(granted, dict(tier.views))
        columns |= {view: held[view] for view in tier.views}
    return pa.table([columns[name] for name in schema.names], schema=schema).combine_chunks()


def _within(rows: pa.Table, identifier: str) -> pa.Array:
    """`near_duplicate_of`, by the id that the other row has in the export; null if it is not exported."""
    exported = dict(zip(rows["record_id"].to_pylist(), rows[identifier].to_pylist(), strict=True))
    return pa.array([exported.get(other) for other in rows["near_duplicate_of"].to_pylist()], pa.string())


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN and infinities as null: JSON lacks them, and SQL engines disagree about them."""
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.fill_null(pc.is_finite(column), False), column, pa.scalar(None, column.type))
    if pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array([_finite_value(value) for value in column.to_pylist()], column.type)])
    return column


def _finite_value(value: object) -> object:
    if isinstance(value, dict):
        return {name: _finite_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
