"""The photographs and perturbed images that networks are evaluated on: an export, or a pool of photographs."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.dataset as ds

from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import ModelError, SourceError, TierError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, stored_size
from perturb.sources.folder import FolderSource

# How many photographs of unknown class in a row end the search.
_PATIENCE = 20
_NEEDED = ("original", "perturbed", "true_label")
# The same in the layout by photograph, where the perturbed images are a list.
_NEEDED_BY_PHOTO = ("image", "adversarial", "true_label")


@dataclass(frozen=True)
class Subject:
    """One photograph, uint8 RGB (height, width, 3), its class, and every perturbed version of it that is known."""

    identity: str
    pixels: Pixels
    label: int
    versions: tuple[Pixels, ...] = field(default=())


def subjects_of_export(path: Path, *, split: str = "test", limit: int | None = None) -> list[Subject]:
    """Return the photographs of one split of an export's `parquet/` files, each with its perturbed versions.

    `path` is the export's folder, or that of its `parquet/` or `by_photo/` format.

    Raises TierError where there is no such file, and where the tier does not grant a column that is needed.
    """
    files = sorted(path.glob(f"parquet/data/{split}/*.parquet")) or sorted(path.glob(f"data/{split}/*.parquet"))
    if not files:
        raise TierError(
            f"{path} has no files of split {split!r} (parquet/data/{split}/*.parquet); name an export's folder"
        )
    dataset = ds.dataset([str(file) for file in files], format="parquet")
    needed = _NEEDED_BY_PHOTO if "adversarial" in dataset.schema.names else _NEEDED
    if missing := [name for name in needed if name not in dataset.schema.names]:
        raise TierError(f"{path} lacks {', '.join(missing)}: its tier does not grant what an evaluation needs")
    found: dict[str, tuple[Pixels, int, list[Pixels]]] = {}
    for batch in dataset.to_batches(columns=list(needed)):
        rows = [(row[needed[0]], _listed(row[needed[1]]), row["true_label"]) for row in batch.to_pylist()]
        originals = _decoded([original["bytes"] for original, _, _ in rows], path)
        perturbed = _decoded([image["bytes"] for _, images, _ in rows for image in images], path)
        for (_, images, label), clean in zip(rows, originals, strict=True):
            versions = list(itertools.islice(perturbed, len(images)))
            identity = pixel_identity(clean)
            if identity not in found and limit is not None and len(found) >= limit:
                continue
            found.setdefault(identity, (clean, label, []))[2].extend(versions)
    return [Subject(identity, clean, label, tuple(versions)) for identity, (clean, label, versions) in found.items()]


def _listed(value: object) -> list[dict[str, bytes]]:
    return value if isinstance(value, list) else [cast("dict[str, bytes]", value)]


def _decoded(images: Sequence[bytes], path: Path) -> Iterator[Pixels]:
    sized = [(image, *stored_size(image)) for image in images]
    for image in decode_stored(sized):
        if isinstance(image, PngRefused):
            raise TierError(f"{path} holds an image that can't be used: {image.detail}; download it again")
        yield image


def check_classes(subjects: Sequence[Subject], name: str, num_classes: int) -> None:
    """Raise ModelError where network `name`, which has `num_classes` classes, lacks one that the data have."""
    highest = max(subject.label for subject in subjects)
    if highest >= num_classes:
        raise ModelError(
            f"{name} has {num_classes} classes, the data have class {highest}: they are not of one data set; name a "
            "network with the data's classes"
        )


def subjects_of_pool(folder: Path, *, limit: int, seed: int = 0) -> list[Subject]:
    """Return photographs of known class from a folder, in an order that `seed` fixes, without perturbed versions.

    Raises SourceError where none has a known class.
    """
    found: dict[str, Subject] = {}
    repeated = 0
    for photo in FolderSource(folder).photos(seed=seed):
        identity = pixel_identity(photo.pixels)
        if photo.true_class is not None and identity not in found:
            found[identity] = Subject(identity, np.asarray(photo.pixels), photo.true_class)
            repeated = 0
        else:
            repeated += 1
        # A folder source is endless: so many without a new one are more than one pass over what is left.
        if len(found) == limit or repeated > 2 * len(found) + _PATIENCE:
            break
    if not found:
        raise SourceError(
            f"no photograph in {folder} has a known class; name folders by WordNet ids, or add a metadata.csv with "
            "class_index"
        )
    return list(found.values())
