"""The columns of an export, as Arrow schema and as `datasets.Features`.

The Hugging Face schema metadata makes `datasets` show the two image columns as images. Their struct must be exactly
`{bytes: binary, path: string}`.
"""

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from perturb.schemas.imagenet import class_names
from perturb.schemas.record import Record, record_schema
from perturb.schemas.tier import Tier

if TYPE_CHECKING:
    import datasets
    from datasets.features.features import FeatureType

IMAGES = ("original", "perturbed")
# The images of the layout by photograph, in the names of the public Perturb dataset.
PHOTO_IMAGES = ("image", "adversarial")
# Class indices, which `datasets` shows with their names.
CLASS_LABELS = ("true_label", "adversarial_label")
_ADDED = {
    "miner_pseudonym": "pseudonym of the miner that answered, valid within this tier only",
    "original": "the clean image, PNG, 8-bit RGB, as it was sent to the miners",
}
# Where hotkeys are shown, and where they are not.
_SAMPLE_ID = {
    True: "first half of sha256(original_sha256 + '|' + perturbed_sha256); also the key in tar shards",
    False: "ID of the pair, valid within this tier only; also the key in tar shards",
}
_PERTURBED = {
    True: "the perturbed image, PNG, 8-bit RGB, byte for byte as the miner sent it",
    False: "the perturbed image, PNG, 8-bit RGB; the pixels are as the miner sent them, the file is encoded anew",
}


_PHOTO = {
    "image_id": "ID of the photograph; a photograph that is drawn on two days, or has two true labels, has two rows",
    "created_at": "UTC time of the photograph's first challenge",
    "image": "the clean image, PNG, 8-bit RGB, as it was sent to the miners",
    "adversarial": "its perturbed images, PNG, 8-bit RGB",
    "label_name": "English name of the true label",
    "pairs": "what is known of each pair, in the order of `adversarial`: the other columns of `parquet/`",
}
# Columns that are the same for all pairs of a row by photograph, and their names there.
TRUTH = {"true_label_name": "label_name", "true_label": "true_label"}


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
    by_tier = {"sample_id": _SAMPLE_ID[tier.shows_hotkeys], "perturbed": _PERTURBED[tier.shows_hotkeys]}
    known = {**record, **_ADDED, **by_tier, **views}
    return {name: known[name] for name in parquet_features(tier)}


def parquet_features(tier: Tier) -> "datasets.Features":
    """Return the features of the `parquet/` format: `sample_id`, `original`, `perturbed`, then the metadata.

    Labels are `ClassLabel`s of `class_names()`, stored as the class index. The files hold times as Arrow timestamps;
    `datasets` converts them to strings in UTC, because torch has no type for them.
    """
    return _parquet_features(tier, times_as_text=True)


def parquet_schema(tier: Tier) -> pa.Schema:
    """Return the Arrow schema of the `parquet/` files, with the columns of `parquet_features` and its metadata.

    The metadata names lists as `datasets` did before version 4, which every later version reads as well.
    """
    return _named_plainly(_parquet_features(tier, times_as_text=False).arrow_schema)


def _named_plainly(schema: pa.Schema) -> pa.Schema:
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

    columns = _metadata_features(tier, times_as_text=times_as_text)
    images = {name: datasets.Image() for name in IMAGES}
    return datasets.Features({"sample_id": columns.pop("sample_id"), **images, **columns})


def _metadata_features(tier: Tier, *, times_as_text: bool) -> "dict[str, FeatureType]":
    import datasets

    columns = {field.name: _feature(field.type, times_as_text=times_as_text) for field in metadata_schema(tier)}
    return columns | {name: datasets.ClassLabel(names=list(class_names())) for name in CLASS_LABELS if name in columns}


def photo_features(tier: Tier) -> "datasets.Features":
    """Return the features of the `by_photo/` format, one row a photograph.

    `image_id`, `created_at`, `image`, `adversarial` and `label_name` have the names of the public Perturb dataset, so
    that its readers read this one. `pairs` has the metadata of each pair, without what the row says of all of them
    (`TRUTH`). A tier that withholds `created_at`, `true_label_name` or `true_label` lacks what they would show.
    """
    return _photo_features(tier, times_as_text=True)


def photo_schema(tier: Tier) -> pa.Schema:
    """Return the Arrow schema of the `by_photo/` files, as `parquet_schema` does for pairs."""
    return _named_plainly(_photo_features(tier, times_as_text=False).arrow_schema)


def describe_photos(tier: Tier) -> dict[str, str]:
    """Return a description of each column of the `by_photo/` format, in the order of its columns."""
    known = describe(tier) | _PHOTO
    return {name: known[name] for name in photo_features(tier)}


def _photo_features(tier: Tier, *, times_as_text: bool) -> "datasets.Features":
    import datasets

    pair = _metadata_features(tier, times_as_text=times_as_text)
    found: dict[str, FeatureType] = {"image_id": datasets.Value("string")}
    if "created_at" in pair:
        found["created_at"] = pair["created_at"]
    found |= {"image": datasets.Image(), "adversarial": datasets.List(datasets.Image())}
    found |= {name: pair.pop(source) for source, name in TRUTH.items() if source in pair}
    return datasets.Features({**found, "pairs": datasets.List(pair)})


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
