"""Croissant metadata of the `parquet/` format of an export, made and checked offline.

The format: Croissant 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import SPLITS
from perturb.sinks.dataset.card import Contents
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.dataset.features import IMAGES, describe, metadata_schema

if TYPE_CHECKING:
    import mlcroissant as mlc


def make_croissant(contents: Contents) -> bytes:
    """Return the JSON-LD of the `parquet/` format. Raises CorpusError if `mlcroissant` finds it invalid."""
    import mlcroissant as mlc

    context = mlc.Context()
    splits = [split for split in SPLITS if contents.statistics.splits.get(split)]
    try:
        metadata = mlc.Metadata(
            ctx=context,
            name=f"perturb-{contents.tier.name}",
            description=contents.tier.description,
            license=[contents.tier.license],
            version=contents.version,
            cite_as=f"Perturb, tier {contents.tier.name}, version {contents.version}",
            distribution=[_file(context, file) for split in splits for file in contents.of("parquet", split)]
            + [_file_set(context, split) for split in splits],
            record_sets=[_records(context, contents, split) for split in splits],
        )
        found = metadata.to_json()
    except mlc.ValidationError as error:
        raise CorpusError(f"the Croissant metadata of tier {contents.tier.name} is invalid: {error}") from error
    return json.dumps(found, indent=1, ensure_ascii=False, default=str).encode() + b"\n"


def _file(context: "mlc.Context", file: ExportFile) -> "mlc.FileObject":
    import mlcroissant as mlc

    return mlc.FileObject(
        ctx=context,
        id=file.key.removeprefix("parquet/"),
        name=file.key.rpartition("/")[2],
        content_url=file.key.removeprefix("parquet/"),
        content_size=f"{file.size} B",
        encoding_formats=["application/x-parquet"],
        sha256=file.sha256,
    )


def _file_set(context: "mlc.Context", split: str) -> "mlc.FileSet":
    import mlcroissant as mlc

    return mlc.FileSet(
        ctx=context,
        id=f"{split}-files",
        name=f"{split}-files",
        encoding_formats=["application/x-parquet"],
        includes=[f"data/{split}/*.parquet"],
    )


def _records(context: "mlc.Context", contents: Contents, split: str) -> "mlc.RecordSet":
    import mlcroissant as mlc

    schema = metadata_schema(contents.tier)
    fields = [
        mlc.Field(
            ctx=context,
            id=f"{split}/{name}",
            name=name,
            description=text,
            data_types=[_kind(schema, name)],
            repeated=name in schema.names and pa.types.is_list(schema.field(name).type),
            source=mlc.Source(ctx=context, file_set=f"{split}-files", extract=mlc.Extract(ctx=context, column=name)),
        )
        for name, text in describe(contents.tier).items()
    ]
    return mlc.RecordSet(ctx=context, id=split, name=split, key=[f"{split}/sample_id"], fields=fields)


def _kind(schema: pa.Schema, name: str) -> "mlc.DataType":
    import mlcroissant as mlc

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
