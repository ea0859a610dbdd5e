"""The columns of an export, as Arrow schema and as `datasets.Features`.

The Hugging Face schema metadata makes `datasets` show the two image columns as images. Their struct must be exactly
`{bytes: binary, path: string}`.
"""

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from perturb.schemas.record import Record, record_schema
from perturb.schemas.tier import Tier

if TYPE_CHECKING:
    import datasets
    from datasets.features.features import FeatureType

IMAGES = ("original", "perturbed")
_ADDED = {
    "sample_id": "first half of sha256(original_sha256 + '|' + perturbed_sha256): the same pair has the same ID in "
    "every tier; also the key in tar shards",
    "miner_pseudonym": "pseudonym of the miner that answered, valid within this tier only",
    "original": "the clean image, PNG, 8-bit RGB, as it was sent to the miners",
    "perturbed": "the perturbed image, PNG, 8-bit RGB, byte for byte as the miner sent it",
}


def metadata_schema(tier: Tier) -> pa.Schema:
    """Return every column of an export except the images: IDs, the granted record columns, a boolean for each view."""
    record = record_schema()
    fields = [pa.field("sample_id", pa.string())]
    if tier.miner == "pseudonym":
        fields.append(pa.field("miner_pseudonym", pa.string()))
    fields += [record.field(name) for name in tier.granted]
    fields += [pa.field(view, pa.bool_()) for view in tier.views]
    return pa.schema(fields)


def describe(tier: Tier) -> dict[str, str]:
    """Return a description of each column of the `parquet/` format, in the order of its columns."""
    record = {name: info.description or "" for name, info in Record.model_fields.items()}
    record["near_duplicate_of"] = (
        f"{'record_id' if 'record_id' in tier.granted else 'sample_id'} of a faster answer with nearly the same "
        "perturbation; null also if that answer is not part of this tier"
    )
    views = {view: f"whether {sql}" for view, sql in tier.views.items()}
    known = {**record, **_ADDED, **views}
    return {name: known[name] for name in parquet_features(tier)}


def parquet_features(tier: Tier) -> "datasets.Features":
    """Return the features of the `parquet/` format: `sample_id`, `original`, `perturbed`, then the metadata.

    The files hold times as Arrow timestamps; `datasets` converts them to strings in UTC, because torch has no type for
    them.
    """
    return _parquet_features(tier, times_as_text=True)


def parquet_schema(tier: Tier) -> pa.Schema:
    """Return the Arrow schema of the `parquet/` files, with the columns of `parquet_features` and its metadata.

    The metadata names lists as `datasets` did before version 4, which every later version reads as well.
    """
    schema = _parquet_features(tier, times_as_text=False).arrow_schema
    metadata = {key: _plain_lists(json.loads(value)) for key, value in schema.metadata.items()}
    return schema.with_metadata({key: json.dumps(value) for key, value in metadata.items()})


def _plain_lists(described: object) -> object:
    """Replace `{"feature": X, "_type": "List"}` by `[X]` throughout."""
    if not isinstance(described, dict):
        return described
    if described.get("_type") == "List":
        return [_plain_lists(described["feature"])]
    return {name: _plain_lists(value) for name, value in described.items()}


def _parquet_features(tier: Tier, *, times_as_text: bool) -> "datasets.Features":
    import datasets

    columns = {field.name: _feature(field.type, times_as_text=times_as_text) for field in metadata_schema(tier)}
    images = {name: datasets.Image() for name in IMAGES}
    return datasets.Features({"sample_id": columns.pop("sample_id"), **images, **columns})


def wds_features(tier: Tier) -> "datasets.Features":
    """Return the features of the `wds/` format as `datasets` names them: the two PNGs, `json`, `__key__`, `__url__`.

    Times are ISO 8601 strings in UTC there, because JSON has no type for them.
    """
    import datasets

    row = {field.name: _feature(field.type, times_as_text=True) for field in metadata_schema(tier)}
    images = {f"{name}.png": datasets.Image() for name in IMAGES}
    text = datasets.Value("string")
    return datasets.Features({**images, "json": row, "__key__": text, "__url__": text})


def _feature(kind: pa.DataType, *, times_as_text: bool) -> "FeatureType | dict[str, FeatureType]":
    import datasets

    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type, times_as_text=times_as_text) for field in kind}
    if pa.types.is_list(kind):
        return datasets.List(_feature(kind.value_type, times_as_text=times_as_text))
    if pa.types.is_timestamp(kind):
        return datasets.Value("string" if times_as_text else str(kind))
    return datasets.Value({pa.float64(): "float64"}.get(kind, str(kind)))
