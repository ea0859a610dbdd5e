"""The corpus' accepted records of the photographs in a sample: perturbations that other people found.

They are collected once for a plan and kept, so that a resumed run attacks with the same ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perturb.certificates.folder import CertificateFolder
from perturb.certificates.measure import CrowdRecord
from perturb.schemas.errors import SettingsError
from perturb.schemas.record import POINTERS, Row
from perturb.schemas.settings import Settings

if TYPE_CHECKING:
    from perturb.sinks.corpus.corpus import Corpus

_COLUMNS = ("record_id", "original_sha256", "perturbed_sha256", *POINTERS)
Crowd = dict[str, tuple[CrowdRecord, ...]]


def crowd_records(folder: CertificateFolder, store: str | None, identities: Sequence[str], settings: Settings) -> Crowd:
    """Return the accepted records of the corpus at `store` that show one of these images, by the image's identity.

    Raises SettingsError where the plan asks for them and no store is named.
    """
    from perturb.sandbox.stored import pair_pixels
    from perturb.sinks.corpus.corpus import Corpus

    if store is None:
        raise SettingsError("the plan compares with the records of a corpus, but local.json names no store")
    corpus = Corpus.open(settings.model_copy(update={"store": store}))
    found: dict[str, list[CrowdRecord]] = {}
    kept = folder.work("crowd")
    allowed = None if kept is None else set(kept["records"])
    rows = sorted(_rows(corpus, set(identities)), key=lambda row: str(row["record_id"]))
    rows = [row for row in rows if allowed is None or row["record_id"] in allowed]
    if allowed is None:
        folder.keep_work("crowd", {"records": [row["record_id"] for row in rows]})
    for pair in corpus.read_pairs(rows):
        _, perturbed = pair_pixels(pair)
        record = CrowdRecord(str(pair.row["record_id"]), perturbed)
        found.setdefault(str(pair.row["original_sha256"]), []).append(record)
    return {identity: tuple(records) for identity, records in found.items()}


def _rows(corpus: "Corpus", identities: set[str]) -> list[Row]:
    import pyarrow.compute as pc

    wanted = (pc.field("outcome") == "accepted") & pc.field("original_sha256").isin(sorted(identities))
    rows: list[Row] = corpus.dataset().to_table(columns=list(_COLUMNS), filter=wanted).to_pylist()
    return rows
