"""Read an export as its subscribers read it, and check one pair of it from its two images alone."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perturb.models.classifier import Classifier
from perturb.schemas.errors import TierError
from perturb.schemas.image import pixel_identity
from perturb.schemas.record import Row
from perturb.schemas.settings import S3Settings
from perturb.sinks.dataset.keys import CARD
from perturb.sinks.dataset.photo_rows import pair_ids
from perturb.sinks.dataset.writers import FORMATS, Format
from perturb.sinks.stores.open import open_store

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class PairCheck:
    """One pair, checked from its two images: what they show, and whether the metadata agrees (`holds`)."""

    sample_id: str
    linf_levels: int
    clean_label: str
    perturbed_label: str
    flips: bool
    holds: bool


@dataclass(frozen=True)
class ReadBack:
    """Records by reader (`datasets` in memory and streaming, on each format; `webdataset`), and the check of a pair.

    `agree` says whether all readers found the same records; `proof.holds` whether the recomputed L-inf, labels,
    pixel identities and sample id are those of the metadata.
    """

    records: dict[str, int]
    agree: bool
    proof: PairCheck | None

    @property
    def holds(self) -> bool:
        """Whether all readers agree and the pair, if there is one, is what its metadata says."""
        return self.agree and (self.proof is None or self.proof.holds)


Identify = Callable[[str, str], str]
"""The sample id that a pair must have, given the pixel identities of its original and its perturbed image."""


def read_back(
    path: str, *, classifier: Classifier, identify: Identify | None = None, s3: S3Settings | None = None
) -> ReadBack:
    """Load the export at `path` (a tier's folder; on S3 it is downloaded first) with each reader of the guide.

    Where the sample ids depend on the operator's secret, they are checked only if the caller gives `identify`.
    An export without records has files of metadata only, so nothing is read and no pair checked. Raises TierError when
    nothing is exported there yet.
    """
    with _local(path, s3) as folder:
        if not (folder / "parquet" / CARD).exists():
            raise TierError(f"nothing is exported to {path} yet; the tier's delay may hold the sealed days back")
        if not any(folder.glob("*/data/*/*")):
            return ReadBack(records={}, agree=True, proof=None)
        found: dict[str, set[str]] = {}
        records: dict[str, int] = {}
        for reader, ids in _readers(folder):
            found[reader], records[reader] = set(ids), len(ids)
        agree = len(set(map(frozenset, found.values()))) == 1 and len(set(records.values())) == 1
        return ReadBack(records=records, agree=agree, proof=check_pair(_first_row(folder), classifier, identify))


def check_pair(row: Row, classifier: Classifier, identify: Identify | None = None) -> PairCheck:
    """Check one row of a `parquet/` dataset as `datasets` gives it; columns that the tier withholds are skipped."""
    clean, perturbed = np.asarray(row["original"]), np.asarray(row["perturbed"])
    levels = int(np.abs(clean.astype(np.int16) - perturbed.astype(np.int16)).max())
    before, after = (int(label) for label in classifier.logits(np.stack([clean, perturbed])).argmax(axis=1))
    identities = pixel_identity(clean), pixel_identity(perturbed)
    stated: Row = {"linf_levels": levels, "true_label": before, "adversarial_label": after}
    stated |= dict(zip(("original_sha256", "perturbed_sha256"), identities, strict=True))
    if identify is not None:
        stated["sample_id"] = identify(*identities)
    same = all(row[name] == value for name, value in stated.items() if name in row)
    return PairCheck(
        sample_id=row["sample_id"],
        linf_levels=levels,
        clean_label=classifier.label_name(before),
        perturbed_label=classifier.label_name(after),
        flips=before != after,
        holds=same and before != after,
    )


def _readers(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each reader's name and the sample ids that it found."""
    import datasets

    present = [format for format in FORMATS if (folder / format / CARD).exists()]
    for format in present:
        with tempfile.TemporaryDirectory() as cache, _quiet():
            # The card states the splits' sizes; `datasets` itself refuses an export that has fewer rows.
            kept = datasets.load_dataset(str(folder / format), cache_dir=cache)
            yield f"{format}: datasets", _ids(kept, format)
        with _quiet():
            streamed = datasets.load_dataset(str(folder / format), streaming=True)
            yield f"{format}: datasets, streaming", _ids(streamed, format)
    if "wds" in present:
        yield "wds: webdataset", _webdataset_ids(folder / "wds")


def _ids(splits: "datasets.DatasetDict | datasets.IterableDatasetDict", format: Format) -> list[str]:
    if format == "by_photo":
        return [name for split in splits.values() for row in split.select_columns(["pairs"]) for name in pair_ids(row)]
    column = "sample_id" if format == "parquet" else "__key__"
    return [row[column] for split in splits.values() for row in split.select_columns([column])]


def _webdataset_ids(folder: Path) -> list[str]:
    import webdataset

    urls = sorted(str(path) for path in folder.glob("data/*/*.tar"))
    pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    fields = pairs.to_tuple("__key__", "original.png", "perturbed.png", "json")
    ids = []
    for key, original, perturbed, row in fields:
        if original.size != perturbed.size or row["sample_id"] != key:
            raise TierError(
                f"sample {key} in {folder} is inconsistent: image sizes or sample_id differ; delete the export and "
                "export again"
            )
        ids.append(key)
    return ids


def _first_row(folder: Path) -> Row:
    import datasets

    with _quiet():
        splits = datasets.load_dataset(str(folder / "parquet"), streaming=True)
    row: Row = next(iter(next(iter(splits.values()))))
    return row


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _local(path: str, s3: S3Settings | None) -> Iterator[Path]:
    """Yield the export as a directory: itself, or a download of everything below an s3:// path."""
    if not path.startswith("s3://"):
        yield Path(path)
        return
    store = open_store(path, s3)
    with tempfile.TemporaryDirectory() as temporary:
        for entry in store.entries():
            target = Path(temporary) / entry.key
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.writelines(store.stream(entry.key, entry.size))
        yield Path(temporary)
