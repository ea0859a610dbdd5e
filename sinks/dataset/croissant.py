"""Croissant metadata of the Parquet formats of an export, made and checked offline.

Its paths are relative to the file, which is therefore beside `data/`.

The format: Croissant 1.0, https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import SPLITS, Tier
from perturb.sinks.dataset.card import Contents
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.dataset.features import (
    IMAGES,
    PHOTO_IMAGES,
    describe,
    describe_photos,
    metadata_schema,
    photo_schema,
)
from perturb.sinks.dataset.writers import Format

if TYPE_CHECKING:
    import mlcroissant as mlc

WITH_CROISSANT: tuple[Format, ...] = ("parquet", "by_photo")
_IMAGES = (*IMAGES, *PHOTO_IMAGES)


def make_croissant(contents: Contents, format: Format) -> bytes:
    """Return the JSON-LD of one of `WITH_CROISSANT`. Raises CorpusError if `mlcroissant` finds it invalid."""
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
            distribution=[_file(context, file) for split in splits for file in contents.of(format, split)]
            + [_file_set(context, contents.of(format, split), split) for split in splits],
            record_sets=[_records(context, contents.tier, format, split) for split in splits],
        )
        found = metadata.to_json()
    except mlc.ValidationError as error:
        raise CorpusError(f"the Croissant metadata of tier {contents.tier.name} is invalid: {error}") from error
    return json.dumps(found, indent=1, ensure_ascii=False, default=str).encode() + b"\n"


def _file(context: "mlc.Context", file: ExportFile) -> "mlc.FileObject":
    import mlcroissant as mlc

    return mlc.FileObject(
        ctx=context,
        id=_path(file),
        name=file.key.rpartition("/")[2],
        content_url=_path(file),
        content_size=f"{file.size} B",
        encoding_formats=["application/x-parquet"],
        sha256=file.sha256,
    )


def _file_set(context: "mlc.Context", files: Sequence[ExportFile], split: str) -> "mlc.FileSet":
    import mlcroissant as mlc

    return mlc.FileSet(
        ctx=context,
        id=f"{split}-files",
        name=f"{split}-files",
        encoding_formats=["application/x-parquet"],
        # By name, as in the card: files of a day that is being added do not belong to this version.
        includes=[_path(file) for file in files],
    )


def _path(file: ExportFile) -> str:
    return file.key.removeprefix(f"{file.root}/")


def _records(context: "mlc.Context", tier: Tier, format: Format, split: str) -> "mlc.RecordSet":
    import mlcroissant as mlc

    fields = [
        mlc.Field(
            ctx=context,
            id=f"{split}/{leaf.name}",
            name=leaf.name,
            description=leaf.description,
            data_types=[_data_type(leaf)],
            repeated=leaf.repeated,
            source=mlc.Source(
                ctx=context,
                file_set=f"{split}-files",
                extract=mlc.Extract(ctx=context, column=leaf.column),
                transforms=[mlc.Transform(ctx=context, json_path=leaf.member)] if leaf.member else [],
            ),
        )
        for leaf in (_photo_leaves(tier) if format == "by_photo" else _leaves(tier))
    ]
    key = f"{split}/{'image_id' if format == 'by_photo' else 'sample_id'}"
    return mlc.RecordSet(ctx=context, id=split, name=split, key=[key], fields=fields)


@dataclass(frozen=True)
class _Leaf:
    """A value that a Croissant field can hold: a column, or a member of a struct or of each struct in a list."""

    column: str
    member: str | None
    description: str
    kind: pa.DataType
    repeated: bool = False

    @property
    def name(self) -> str:
        return f"{self.column}.{self.member}" if self.member and self.column not in _IMAGES else self.column


def _leaves(tier: Tier) -> Iterator[_Leaf]:
    """Croissant has no structs, so that each of their members is a field of its own, named `column.member`."""
    schema = metadata_schema(tier)
    for column, text in describe(tier).items():
        if column in IMAGES:
            yield _Leaf(column, "bytes", text, pa.binary())
            continue
        kind = schema.field(column).type
        repeated = pa.types.is_list(kind)
        inner = kind.value_type if repeated else kind
        if pa.types.is_struct(inner):
            for member in inner:
                yield _Leaf(column, member.name, f"{text}: {member.name}", member.type, repeated)
        else:
            yield _Leaf(column, None, text, inner, repeated)


def _photo_leaves(tier: Tier) -> Iterator[_Leaf]:
    """As `_leaves`. Structs and lists within a pair are left out: Croissant has no lists of lists."""
    schema = photo_schema(tier)
    for column, text in describe_photos(tier).items():
        kind = schema.field(column).type
        if column in PHOTO_IMAGES:
            yield _Leaf(column, "bytes", text, pa.binary(), repeated=pa.types.is_list(kind))
        elif pa.types.is_list(kind):
            known = describe(tier)
            for member in kind.value_type:
                if not pa.types.is_nested(member.type):
                    yield _Leaf(column, member.name, known[member.name], member.type, repeated=True)
        else:
            yield _Leaf(column, None, text, kind)


def _data_type(leaf: _Leaf) -> "mlc.DataType":
    import mlcroissant as mlc

    if leaf.column in _IMAGES:
        return mlc.DataType.IMAGE_OBJECT
    if pa.types.is_boolean(leaf.kind):
        return mlc.DataType.BOOL
    if pa.types.is_integer(leaf.kind):
        return mlc.DataType.INTEGER
    if pa.types.is_floating(leaf.kind):
        return mlc.DataType.FLOAT
    return mlc.DataType.DATETIME if pa.types.is_timestamp(leaf.kind) else mlc.DataType.TEXT
