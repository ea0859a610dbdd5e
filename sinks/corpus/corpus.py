"""The corpus: committed rounds and sealed days on one store, and all their records as one table."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Self

from perturb.schemas.errors import CorpusError, SettingsError
from perturb.schemas.pair import Pair
from perturb.schemas.record import Row, record_day, record_schema
from perturb.schemas.settings import Settings
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.day_tables import read_day_table
from perturb.sinks.corpus.manifest import FileEntry, Manifest, parse_manifest
from perturb.sinks.corpus.rounds import RoundDraft, StoredRound, read_round, write_round
from perturb.sinks.corpus.sealed_days import entry_day, logged_manifest
from perturb.sinks.log.entry import LogRecord, Totals
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store
from perturb.sinks.stores.open import open_store
from perturb.sinks.stores.probe import require_conditional_writes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

log = logging.getLogger(__name__)
_THREADS = 16
# What a corpus of format 1 begins with.
_OLDER_LOG = "sealed/log/00000000.json"
#: The newest sealed days that may claim a round. A round in an older partition is too late for any day.
HORIZON = 32


@dataclass(frozen=True, order=True)
class RoundRef:
    """A committed round: its partition and its ID."""

    day: date
    round_id: str

    @property
    def commit_key(self) -> str:
        """The key of its metadata, whose presence is the commit."""
        return keys.commit_key(self.day, self.round_id)


class Corpus:
    """Reads and writes one corpus. Sealed days never change, so each manifest is read once per `Corpus`.

    A round is live until a sealed day claims it. Readers get sealed days and live rounds, and each record once.

    What runs on a schedule asks `newest` and `newest_days`, whose cost does not depend on the age of the corpus;
    `manifests` and what is built on it read every day.
    """

    def __init__(self, store: Store):
        self.store = store
        self._manifests: dict[date, Manifest] = {}
        self._claims: dict[tuple[FileEntry, ...], frozenset[str]] = {}
        # The entry of the log before the one with this root, which stands for all before it.
        self._earlier: dict[str, LogRecord | None] = {}

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return the corpus in the store that the settings name. Opening creates nothing.

        Raises StoreError for an unsupported URL.
        """
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
        """Return the days that have a manifest, ascending."""
        return [manifest.day for manifest in self.manifests()]

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all sealed days, ascending by day.

        This lists the store once and reads each manifest that was not read before. Raises CorpusError when one is
        invalid.
        """
        folders = (keys.folder_day(name) for name in self.store.folders(keys.SEALED))
        days = sorted(day for day in folders if day is not None)
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(self.manifest, days)
        return [manifest for manifest in found if manifest is not None]

    def manifest(self, day: date) -> Manifest | None:
        """Return the manifest of a day, or None while it is not sealed. Raises CorpusError when it is invalid."""
        if day not in self._manifests:
            key = keys.manifest_key(day)
            try:
                data = self.store.get(key)
            except ObjectMissing:
                return None
            manifest = parse_manifest(data, key)
            if manifest.day != day:
                raise CorpusError(f"{key} is the manifest of {manifest.day}; restore it from a copy")
            self._manifests[day] = manifest
        return self._manifests[day]

    def newest(self, trust: Trust = ANYONE) -> Manifest | None:
        """Return the manifest of the day that was sealed last, or None. Raises as `days_back`."""
        return next(self.days_back(trust), None)

    def refuse_older_format(self) -> None:
        """Raise CorpusError where days were sealed by a program of an older format, which this one would not see."""
        if self.store.head(_OLDER_LOG) is not None:
            raise CorpusError(
                f"{self.store.url} holds a corpus of format 1 ({_OLDER_LOG}), which this program no longer reads; "
                "name an empty store for a new corpus, or read the old one with the version of perturb that wrote it"
            )

    def totals(self, trust: Trust = ANYONE) -> Totals:
        """Return what the log says that the corpus holds: sealed days, and their records, images and bytes.

        Its newest entry that a validator of `trust` signed says it.
        """
        newest = Log(self.store, trust=trust).newest_that_counts()
        return Totals() if newest is None else newest.entry.totals

    def day_before(self, manifest: Manifest) -> Manifest | None:
        """Return the manifest of the day that was sealed before, or None. Raises CorpusError when it is missing."""
        if manifest.previous_day is None:
            return None
        before = self.manifest(manifest.previous_day)
        if before is None:
            raise CorpusError(
                f"{keys.manifest_key(manifest.previous_day)} is missing, though {manifest.day} was sealed after it; "
                "run `perturb audit` and restore it"
            )
        return before

    def days_back(self, trust: Trust = ANYONE, *, left: Counter[str] | None = None) -> Iterator[Manifest]:
        """Yield the sealed days from the newest back as the log names them, each read when it is asked for.

        The log ends for this with the newest entry that a validator of `trust` signed; `left` counts those behind it,
        by the reason. Its signature covers all entries before it, whoever signed them, and each names the digest of its
        manifest, so that a manifest that somebody replaced is none. Raises CorpusError for a damaged log, for a day
        without its manifest, and for a corpus of an older format.
        """
        entries = Log(self.store, trust=trust)
        record = entries.newest_that_counts(left)
        if record is None:
            self.refuse_older_format()
        while record is not None:
            if record.entry.kind == "sealed-day":
                day = entry_day(record.entry)
                known = self._manifests.get(day)
                if known is None or known.sha256 != record.entry.sha256:
                    self._manifests[day] = logged_manifest(self.store, record)
                yield self._manifests[day]
            root = record.head.root
            if root not in self._earlier:
                self._earlier[root] = entries.before(record)
            record = self._earlier[root]

    def newest_days(self, since: date, trust: Trust = ANYONE, *, most: int = HORIZON) -> list[Manifest]:
        """Return the manifests of the sealed days from `since` on, ascending, at most the `most` newest.

        Raises as `days_back`.
        """
        found = takewhile(lambda manifest: manifest.day >= since, self.days_back(trust))
        return list(islice(found, most))[::-1]

    def claims(self, manifest: Manifest) -> frozenset[str]:
        """Return the IDs of the rounds that a sealed day took in. Raises as `read_day_table`."""
        # Not by the attempt, which another manifest may name too.
        files = tuple(manifest.file("claims"))
        if files not in self._claims:
            table = read_day_table(self.store, manifest, "claims")
            self._claims[files] = frozenset(table["round_id"].to_pylist())
        return self._claims[files]

    def days_of(self, record_id: str) -> list[Manifest]:
        """Return the sealed days that may have a record: that of its challenge, and those that took it in late.

        This is one read of a manifest and one listing, and a manifest for each day that took in records of that day
        late. A listed day that cannot be read is left out, as anybody may have listed it. Raises CorpusError for what
        is no record ID, and when the manifest of the challenge's day is invalid.
        """
        day = record_day(record_id)
        if day is None:
            raise CorpusError(
                f"{record_id!r} is not a record ID; accepted: 8 digits of a day and 24 hex digits, as in the record_id "
                "column"
            )
        found = [self.manifest(day)]
        for entry in self.store.entries(keys.day_folder(keys.LATE, day)):
            with suppress(SettingsError, CorpusError, ObjectCorrupt):
                found.append(self.manifest(keys.parse_day(entry.key.rpartition("/")[2])))
        return [manifest for manifest in found if manifest is not None]

    # Rounds

    def open_day(self, now: datetime, trust: Trust = ANYONE) -> date:
        """Return the partition for a round made at `now`: its UTC date, or the day after the last sealed day if later.

        So no round is lost when a clock is set back over midnight or when a day was sealed early.
        """
        today = now.astimezone(UTC).date()
        before = keys.day_folder(keys.SEALED, today)
        if not any(
            entry.key.endswith(keys.MANIFEST) for entry in self.store.entries(keys.SEALED + "date=", after=before)
        ):
            return today
        # Anybody may have put a manifest there: the log says which days are sealed.
        newest = self.newest(trust)
        return today if newest is None or newest.day < today else newest.day + timedelta(days=1)

    def place_round(self, round_id: str, created_at: datetime, trust: Trust = ANYONE) -> date:
        """Return the partition for a round: where an earlier try committed it, else `open_day(created_at, trust)`."""
        day = self.open_day(created_at, trust)
        for earlier in _days(created_at.astimezone(UTC).date(), day):
            if self._has_round(earlier, round_id):
                log.info("round %s was committed before %s was sealed", round_id, earlier)
                return earlier
        return day

    def write_round(self, draft: RoundDraft) -> RoundRef:
        """Write a round, unless the sealed day of its partition has it already. Raises as `rounds.write_round`."""
        if not self._claimed(draft.day, draft.round_id):
            write_round(self.store, draft)
        return RoundRef(draft.day, draft.round_id)

    def _has_round(self, day: date, round_id: str) -> bool:
        return self._claimed(day, round_id) or self.store.head(keys.commit_key(day, round_id)) is not None

    def _claimed(self, day: date, round_id: str) -> bool:
        try:
            manifest = self.manifest(day)
        except (CorpusError, ObjectCorrupt):
            # Somebody put other bytes there. The log names what was sealed.
            manifest = next((one for one in self.newest_days(day) if one.day == day), None)
        return manifest is not None and round_id in self.claims(manifest)

    def live_rounds(
        self, trust: Trust = ANYONE, *, until: date | None = None, manifests: Sequence[Manifest] | None = None
    ) -> list[RoundRef]:
        """Return the committed rounds that no sealed day claims, ascending; with `until`, of partitions up to that day.

        Sealed days are those of the log up to the newest entry that a validator of `trust` signed.

        A day claims rounds of its own partition and of earlier ones, so that only the days sealed since the oldest
        partition are asked, at most `HORIZON`: partitions from before these are closed, and their rounds are never
        sealed. The objects of days without a manifest are listed; in a sealed day only unclaimed folders are. A caller
        that has all manifests passes them as `manifests`.
        """
        partitions = self.round_days()
        if not partitions:
            return []
        known = self.newest_days(partitions[0], trust) if manifests is None else manifests
        sealed = {manifest.day for manifest in known}
        claimed = {round_id for manifest in known for round_id in self.claims(manifest)}
        closed = self._closed_before(known) if manifests is None else date.min
        rounds: list[RoundRef] = []
        for day in partitions:
            if day >= closed and (until is None or day <= until):
                rounds.extend(self._unclaimed(day, claimed) if day in sealed else self._committed(day, claimed))
        return sorted(rounds)

    def closed_partitions(self) -> list[date]:
        """Return the partitions that hold objects of rounds and are too old for any to be sealed, ascending."""
        partitions = self.round_days()
        closed = self._closed_before(self.newest_days(partitions[0])) if partitions else date.min
        return [day for day in partitions if day < closed]

    def _closed_before(self, newest: Sequence[Manifest]) -> date:
        """Return the first day whose partition may have live rounds, by the newest sealed days."""
        return newest[0].day if len(newest) >= HORIZON else date.min

    def round_days(self) -> list[date]:
        """Return the partitions that hold objects of rounds, ascending."""
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

    def read_round(self, ref: RoundRef, trust: Trust | None = None) -> StoredRound:
        """Return a committed round's metadata. Raises as `rounds.read_round`."""
        return read_round(self.store, ref.day, ref.round_id, trust)

    # Reading

    def dataset(self, *, days: Sequence[date] | None = None) -> "ds.Dataset":
        """Return all records as one Arrow dataset of the record schema, sealed days before live rounds.

        `days` limits it to these sealed days and to rounds in these partitions. To query it with DuckDB:
        `duckdb.connect().register("records", corpus.dataset())`.
        """
        import pyarrow.dataset as ds

        from perturb.sinks.stores.arrow import open_filesystem

        wanted = None if days is None else set(days)
        some = self.manifests() if wanted is None else [self.manifest(day) for day in sorted(wanted)]
        sealed = [manifest for manifest in some if manifest is not None]
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
        """Return all records as one Arrow table in memory; `columns` and `days` limit it."""
        return self.dataset(days=days).to_table(columns=columns)

    def metadata(self, manifest: Manifest) -> "ds.Dataset":
        """Return the records of one sealed day as an Arrow dataset with the columns that its files have."""
        import pyarrow.dataset as ds

        from perturb.sinks.stores.arrow import open_filesystem

        paths = [entry.key for entry in manifest.file("metadata")]
        return ds.dataset(paths, format="parquet", filesystem=open_filesystem(self.store))

    def rows(self, manifest: Manifest) -> Iterator[list[Row]]:
        """Yield the records of one sealed day as dictionaries, a few thousand at a time.

        Raises as `tables`, and CorpusError for text that is not Unicode and times that no record has.
        """
        for table in self.tables(manifest):
            try:
                rows: list[Row] = table.to_pylist()
            except (ValueError, OverflowError) as error:
                raise CorpusError(f"{manifest.day} has a value that no record has: {error}") from error
            yield rows

    def tables(self, manifest: Manifest) -> "Iterator[pa.Table]":
        """Yield the records of one sealed day with the columns that its files have, a few thousand at a time.

        Raises ObjectMissing when a file does not exist, and CorpusError when one is damaged or has another number of
        rows than the manifest states.
        """
        from perturb.sinks.formats.parquet import open_table, read_tables
        from perturb.sinks.stores.arrow import open_filesystem

        filesystem = open_filesystem(self.store)
        for entry in manifest.file("metadata"):
            if self.store.head(entry.key) is None:
                raise ObjectMissing(f"{entry.key} is missing")
            with filesystem.open_input_file(entry.key) as source:
                table = open_table(source, entry.key)
                count = table.metadata.num_rows
                if count != entry.rows:
                    raise CorpusError(f"{entry.key} has {count} rows, the manifest states {entry.rows}")
                yield from read_tables(table, entry.key)

    def read_pairs(self, rows: Sequence[Row]) -> list[Pair]:
        """Return the images of accepted records with their rows, in their order.

        The ranges of one shard are fetched together, each once. The caller compares digests. Raises ObjectMissing when
        a shard does not exist, and ObjectCorrupt when it does not have a range.
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
        """Return `(offset, length)` ranges of one shard. The caller compares digests and pixel identities."""
        return self.store.get_ranges(shard, list(ranges))


def _place(row: Row, image: str) -> tuple[str, int, int]:
    return row[f"{image}_shard"], row[f"{image}_offset"], row[f"{image}_length"]


def _days(first: date, end: date) -> Iterator[date]:
    """Return the days from `first` up to, but not including, `end`."""
    return (first + timedelta(days=step) for step in range((end - first).days))
