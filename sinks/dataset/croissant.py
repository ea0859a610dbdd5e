"""Croissant metadata of an export's Parquet root, made and checked offline.

The format: Croissant 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from typing import Any

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.sinks.dataset.card import SPLITS, Contents
from perturb.sinks.dataset.features import IMAGES, describe, metadata_schema


def make_croissant(made: Contents) -> bytes:
    """The JSON-LD of the `parquet/` root. Raises CorpusError if `mlcroissant` finds a fault in it."""
    import mlcroissant as mlc

    context = mlc.Context()
    splits = [split for split in SPLITS if made.statistics.splits.get(split)]
    try:
        metadata = mlc.Metadata(
            ctx=context,
            name=f"perturb-{made.tier.name}",
            description=made.tier.description,
            license=[made.tier.license],
            version=made.version,
            cite_as=f"Perturb, tier {made.tier.name}, version {made.version}",
            distribution=[_file(mlc, context, made, file) for split in splits for file in made.of("parquet", split)]
            + [_file_set(mlc, context, split) for split in splits],
            record_sets=[_records(mlc, context, made, split) for split in splits],
        )
        found = metadata.to_json()
    except mlc.ValidationError as error:
        raise CorpusError(f"the Croissant metadata of tier {made.tier.name} is invalid: {error}") from error
    return json.dumps(found, indent=1, ensure_ascii=False, default=str).encode() + b"\n"


def _file(mlc: Any, context: Any, made: Contents, file: Any) -> Any:
    return mlc.FileObject(
        ctx=context,
        id=file.key.removeprefix("parquet/"),
        name=file.key.rpartition("/")[2],
        content_url=file.key.removeprefix("parquet/"),
        content_size=f"{file.size} B",
        encoding_formats=["application/x-parquet"],
        sha256=file.sha256,
    )


def _file_set(mlc: Any, context: Any, split: str) -> Any:
    return mlc.FileSet(
        ctx=context,
        id=f"{split}-files",
        name=f"{split}-files",
        encoding_formats=["application/x-parquet"],
        includes=[f"data/{split}/*.parquet"],
    )


def _records(mlc: Any, context: Any, made: Contents, split: str) -> Any:
    schema = metadata_schema(made.tier)
    fields = [
        mlc.Field(
            ctx=context,
            id=f"{split}/{name}",
            name=name,
            description=text,
            data_types=[_kind(mlc, schema, name)],
            repeated=name in schema.names and pa.types.is_list(schema.field(name).type),
            source=mlc.Source(ctx=context, file_set=f"{split}-files", extract=mlc.Extract(ctx=context, column=name)),
        )
        for name, text in describe(made.tier).items()
    ]
    return mlc.RecordSet(ctx=context, id=split, name=split, key=[f"{split}/sample_id"], fields=fields)


def _kind(mlc: Any, schema: pa.Schema, name: str) -> Any:
    if name in IMAGES:
        return mlc.DataType.IMAGE_OBJECT
    kind = schema.field(name).type
    if pa.types.is_boolean(kind):
        return mlc.DataType.BOOL
    if pa.types.is_integer(kind):
        return mlc.DataType.INTEGER
    if pa.types.is_floating(kind):
        return mlc.DataType.FLOAT
    return mlc.DataType.DATETIME if pa.types.is_timestamp(kind) else mlc.DataType.TEXT
