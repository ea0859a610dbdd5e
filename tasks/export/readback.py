"""An export read as its subscribers read it, and one record of it proven from nothing but the bytes they get."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturb.models.classifier import Classifier
from perturb.schemas.errors import TierError
from perturb.schemas.image import pixel_identity
from perturb.schemas.settings import S3Settings
from perturb.sinks.stores.open import open_store
from perturb.tasks.tiers.grant import sample_id


@dataclass(frozen=True)
class Proof:
    """One record, checked from its two images: what they say, and whether the metadata says the same."""

    sample_id: str
    linf_levels: int
    clean_label: str
    perturbed_label: str
    flips: bool
    holds: bool


@dataclass(frozen=True)
class ReadBack:
    """Records that each reader found (`datasets` in memory and streaming, on both roots; `webdataset`), and a proof.

    `agree` says whether all readers found the same records as the card states; `proof.holds` whether the recomputed
    L-inf, labels and sample id are those of the metadata.
    """

    records: dict[str, int]
    agree: bool
    proof: Proof

    @property
    def holds(self) -> bool:
        """Everything that was read is what was promised."""
        return self.agree and self.proof.holds


def read_back(path: str, *, classifier: Classifier, s3: S3Settings | None = None) -> ReadBack:
    """Load the export at `path` (a tier's folder; on S3 it is downloaded first) with every reader that is promised.

    Raises TierError where nothing was exported yet.
    """
    with _local(path, s3) as folder:
        if not (folder / "parquet" / "README.md").exists():
            raise TierError(f"there is nothing exported in {path} yet; the tier's delay may hold the sealed days back")
        found: dict[str, set[str]] = {}
        records: dict[str, int] = {}
        for reader, ids in _readers(folder):
            found[reader], records[reader] = set(ids), len(ids)
        agree = len(set(map(frozenset, found.values()))) == 1 and len(set(records.values())) == 1
        return ReadBack(records=records, agree=agree, proof=prove(_first_row(folder), classifier))


def prove(row: dict[str, Any], classifier: Classifier) -> Proof:
    """Check one row of a `parquet/` root as `datasets` gives it; columns that the tier withholds are not compared."""
    clean, perturbed = np.asarray(row["original"]), np.asarray(row["perturbed"])
    levels = int(np.abs(clean.astype(np.int16) - perturbed.astype(np.int16)).max())
    before, after = (int(label) for label in classifier.logits(np.stack([clean, perturbed])).argmax(axis=1))
    stated = {"linf_levels": levels, "true_label": before, "adversarial_label": after}
    identity = sample_id(pixel_identity(clean), pixel_identity(perturbed))
    same = all(row[name] == value for name, value in stated.items() if name in row)
    return Proof(
        sample_id=row["sample_id"],
        linf_levels=levels,
        clean_label=classifier.label_name(before),
        perturbed_label=classifier.label_name(after),
        flips=before != after,
        holds=same and before != after and row["sample_id"] == identity,
    )


def _readers(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each reader's name and the sample ids that it found."""
    import datasets

    for root in ("parquet", "wds"):
        with tempfile.TemporaryDirectory() as cache, _quiet():
            # The splits' sizes stand in the card; `datasets` itself refuses an export that has fewer.
            kept = datasets.load_dataset(str(folder / root), cache_dir=cache)
            yield f"{root}: datasets", _ids(kept, root)
        with _quiet():
            yield f"{root}: datasets, streaming", _ids(datasets.load_dataset(str(folder / root), streaming=True), root)
    yield "wds: webdataset", _webdataset_ids(folder / "wds")


def _ids(splits: Any, root: str) -> list[str]:
    column = "sample_id" if root == "parquet" else "__key__"
    return [row[column] for split in splits.values() for row in split.select_columns([column])]


def _webdataset_ids(root: Path) -> list[str]:
    import webdataset

    urls = sorted(str(path) for path in root.glob("data/*/*.tar"))
    pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    fields = pairs.to_tuple("__key__", "original.png", "perturbed.png", "json")
    ids = []
    for key, original, perturbed, row in fields:
        if original.size != perturbed.size or row["sample_id"] != key:
            raise TierError(f"sample {key} of {root} does not hang together; delete the export and make it again")
        ids.append(key)
    return ids


def _first_row(folder: Path) -> dict[str, Any]:
    import datasets

    with _quiet():
        splits = datasets.load_dataset(str(folder / "parquet"), streaming=True)
    row: dict[str, Any] = next(iter(next(iter(splits.values()))))
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
    """The export as a directory: itself, or a plain download of everything below an s3:// path."""
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
