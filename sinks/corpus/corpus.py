"""The corpus: committed rounds and sealed days on one store, and everything in it as one table."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Self

from perturb.schemas.errors import CorpusError
from perturb.schemas.pair import Pair
from perturb.schemas.record import Record, Row, record_schema
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import FileEntry, Manifest, Signer, parse_manifest
from perturb.sinks.corpus.rounds import RoundDraft, StoredRound, draft_round, read_round, write_round
from perturb.sinks.stores.base import ObjectMissing, Store
from perturb.sinks.stores.open import open_store
from perturb.sinks.stores.probe import require_conditional_writes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)
_THREADS = 16


@dataclass(frozen=True, order=True)
class RoundRef:
    """A committed round: the partition it lies in, and its id."""

    day: date
    round_id: str

    @property
    def commit_key(self) -> str:
        """Key of its metadata, whose presence is the commit."""
        return keys.commit_key(self.day, self.round_id)


class Corpus:
    """Reads and writes one corpus. Sealed days never change, so their manifests are read once an object.

    A round is live until a sealed day claims it; readers get sealed days and live rounds, each record once.
    """

    def __init__(self, store: Store):
        self.store = store
        self._manifests: dict[date, Manifest] = {}

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The corpus in the store that the settings name. Opening creates nothing. Raises StoreError for a bad URL."""
        return cls(open_store(settings.store, settings.s3))

    @classmethod
    def open_for_writing(cls, settings: Settings) -> Self:
        """Return the corpus that the settings name, after a check that writing to its store is safe.

        `produce`, `seal` and `export` begin with it. Raises StoreError when the store cannot be written to, and when
        it keeps no conditional writes and `single_writer` is not set.
        """
        corpus = cls.open(settings)
        require_conditional_writes(corpus.store, single_writer=settings.single_writer)
        return corpus

    # Sealed days

    def sealed_days(self) -> list[date]:
        """Days with a manifest, ascending."""
        return [manifest.day for manifest in self.manifests()]

    def manifests(self) -> list[Manifest]:
        """Manifests of all sealed days, in the order of days. One listing, and one read for each day not yet seen."""
        folders = (keys.folder_day(name) for name in self.store.folders(keys.SEALED))
        days = sorted(day for day in folders if day is not None)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(self.manifest, days)
        return [manifest for manifest in found if manifest is not None]

    def manifest(self, day: date) -> Manifest | None:
        """Manifest of a sealed day, or None while the day is not sealed. Raises CorpusError if it is unreadable."""
        if day not in self._manifests:
            key = keys.manifest_key(day)
            try:
                data = self.store.get(key)
            except ObjectMissing:
                return None
            self._manifests[day] = parse_manifest(data, key)
        return self._manifests[day]

    def seal_log(self) -> list[Manifest]:
        """Sealed days in the order in which they were sealed, including one whose manifest is about to appear."""
        entries = sorted(self.store.entries(keys.LOG), key=lambda entry: entry.key)
        if any(entry.key != keys.log_key(place) for place, entry in enumerate(entries)):
            raise CorpusError(f"{keys.LOG} does not count from 0 without gaps; restore the missing entry from a copy")
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda entry: parse_manifest(self.store.get(entry.key), entry.key), entries))

    # Rounds

    def open_day(self, now: datetime) -> date:
        """The partition for a round made at `now`: its UTC date, or the day after the last sealed one if later.

        So neither a clock that runs back over midnight nor a day sealed early can lose a round.
        """
        today = now.astimezone(UTC).date()
        before = keys.day_folder(keys.SEALED, today)
        last = today - timedelta(days=1)
        for entry in self.store.entries(keys.SEALED + "date=", after=before):
            folder, _, name = entry.key.removeprefix(keys.SEALED).partition("/")
            day = keys.folder_day(folder)
            if name == keys.MANIFEST and day is not None and day > last:
                last = day
        return max(today, last + timedelta(days=1))

    def commit(
        self, records: Sequence[Record], original_png: bytes, bodies: dict[str, bytes], *, signer: Signer | None = None
    ) -> tuple[RoundRef, RoundDraft]:
        """Write one round. A retry of the same round finds the earlier try wherever it went."""
        made = min((record.created_at for record in records), default=datetime.now(UTC))
        day = self.open_day(made)
        for earlier in _days(made.astimezone(UTC).date(), day):
            if records and self._has_round(earlier, records[0].round_id):
                log.info("round %s was committed before %s was sealed", records[0].round_id, earlier)
                day = earlier
                break
        draft = draft_round(day, records, original_png, bodies, signer=signer)
        if not self._claimed(day, draft.round_id):
            write_round(self.store, day, draft)
        return RoundRef(day, draft.round_id), draft

    def _has_round(self, day: date, round_id: str) -> bool:
        return self._claimed(day, round_id) or self.store.head(keys.commit_key(day, round_id)) is not None

    def _claimed(self, day: date, round_id: str) -> bool:
        manifest = self.manifest(day)
        return manifest is not None and any(claim.round_id == round_id for claim in manifest.rounds)

    def live_rounds(self, *, until: date | None = None, manifests: Sequence[Manifest] | None = None) -> list[RoundRef]:
        """Committed rounds that no sealed day claims, ascending; with `until`, those of partitions up to that day.

        Days without a manifest are listed; in a sealed day only unclaimed folders are looked into. `manifests`
        saves reading them where the caller has them all.
        """
        known = self.manifests() if manifests is None else manifests
        sealed = {manifest.day for manifest in known}
        claimed = {claim.round_id for manifest in known for claim in manifest.rounds}
        rounds: list[RoundRef] = []
        for day in self.round_days():
            if until is None or day <= until:
                rounds.extend(self._unclaimed(day, claimed) if day in sealed else self._committed(day, claimed))
        return sorted(rounds)

    def round_days(self) -> list[date]:
        """Partitions that hold anything of rounds, ascending."""
        days = (keys.folder_day(name) for name in self.store.folders(keys.ROUNDS))
        return sorted(day for day in days if day is not None)

    def _committed(self, day: date, claimed: set[str]) -> Iterator[RoundRef]:
        folder = keys.day_folder(keys.ROUNDS, day)
        for entry in self.store.entries(folder):
            round_id, _, name = entry.key.removeprefix(folder).partition("/")
            if name == keys.COMMIT and round_id not in claimed:
                yield RoundRef(day, round_id)

    def _unclaimed(self, day: date, claimed: set[str]) -> Iterator[RoundRef]:
        for round_id in sorted(set(self.store.folders(keys.day_folder(keys.ROUNDS, day))) - claimed):
            if self.store.head(keys.commit_key(day, round_id)) is not None:
                yield RoundRef(day, round_id)

    def read_round(self, ref: RoundRef) -> StoredRound:
        """A committed round's metadata."""
        return read_round(self.store, ref.day, ref.round_id)

    # Reading

    def dataset(self, *, days: Sequence[date] | None = None) -> "ds.Dataset":
        """All records, sealed days before rounds, as one Arrow dataset of the record schema.

        `days` limits it to these sealed days and to rounds in these partitions. Register it with DuckDB as a view:
        `duckdb.connect().register("records", corpus.dataset())`.
        """
        import pyarrow.dataset as ds

        from perturb.sinks.stores.arrow import open_filesystem

        wanted = None if days is None else set(days)
        sealed = [manifest for manifest in self.manifests() if wanted is None or manifest.day in wanted]
        paths = [entry.key for manifest in sealed for entry in manifest.file("metadata")]
        paths += [ref.commit_key for ref in self.live_rounds() if wanted is None or ref.day in wanted]
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True, pre_buffer=True)
        return ds.FileSystemDataset.from_paths(
            paths,
            schema=record_schema(),
            format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
            filesystem=open_filesystem(self.store),
        )

    def table(self, *, columns: list[str] | None = None, days: Sequence[date] | None = None) -> "pa.Table":
        """All records as one Arrow table in memory."""
        return self.dataset(days=days).to_table(columns=columns)

    def metadata(self, manifest: Manifest) -> "ds.Dataset":
        """The records of one sealed day as an Arrow dataset with the columns that its files have."""
        import pyarrow.dataset as ds

        from perturb.sinks.stores.arrow import open_filesystem

        paths = [entry.key for entry in manifest.file("metadata")]
        return ds.dataset(paths, format="parquet", filesystem=open_filesystem(self.store))

    def read_pairs(self, rows: Sequence[Row]) -> list[Pair]:
        """The images of accepted records, in their order; ranges of one shard are fetched together, each once.

        The caller compares digests. Raises ObjectMissing or ObjectCorrupt where a shard does not have a range.
        """
        places = {_place(row, image) for row in rows for image in ("original", "perturbed")}
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for shard, offset, length in sorted(places):
            by_shard.setdefault(shard, []).append((offset, length))
        found = {
            (shard, *place): data
            for shard, ranges in by_shard.items()
            for place, data in zip(ranges, self.read_images(shard, ranges), strict=True)
        }
        return [Pair(found[_place(row, "original")], found[_place(row, "perturbed")], row) for row in rows]

    def read_images(self, shard: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Image bytes of one shard by `(offset, length)`; the caller compares digests (`body_sha256`, identities)."""
        return self.store.get_ranges(shard, list(ranges))


def _place(row: Row, image: str) -> tuple[str, int, int]:
    return row[f"{image}_shard"], row[f"{image}_offset"], row[f"{image}_length"]


def _days(first: date, end: date) -> Iterator[date]:
    """Days from `first` up to, not including, `end`."""
    return (first + timedelta(days=step) for step in range((end - first).days))


def file_sha256(store: Store, entry: FileEntry) -> str:
    """Digest of a stored file, read in pieces. Raises ObjectMissing or ObjectCorrupt if it is shorter than stated."""
    digest = hashlib.sha256()
    for piece in store.stream(entry.key, entry.size):
        digest.update(piece)
    return digest.hexdigest()
