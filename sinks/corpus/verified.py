"""Reads the metadata of a sealed day only after a comparison with the digests that its manifest signs."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import Store

if TYPE_CHECKING:
    import pyarrow.dataset as ds


@contextmanager
def verified_metadata(store: Store, manifest: Manifest) -> Iterator["ds.Dataset"]:
    """Yield the records of a sealed day as an Arrow dataset, from a local copy that is removed when the block ends.

    The copy has the sha256 that the manifest states. Reading in place could show other bytes than those that were
    hashed, because others may write to the store. Raises CorpusError for another digest, ObjectMissing for a missing
    file.
    """
    import pyarrow.dataset as ds

    with tempfile.TemporaryDirectory(prefix="perturb-") as folder:
        paths = []
        for number, entry in enumerate(manifest.file("metadata")):
            path, digest = Path(folder) / f"{number:05d}.parquet", hashlib.sha256()
            with path.open("wb") as file:
                for piece in store.stream(entry.key, entry.size):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != entry.sha256:
                raise CorpusError(
                    f"{entry.key} differs from what was sealed: its sha256 is {digest.hexdigest()}, stated is "
                    f"{entry.sha256}; run `perturb audit --day {manifest.day}` and restore it"
                )
            paths.append(str(path))
        yield ds.dataset(paths, format="parquet")
