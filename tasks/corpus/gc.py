"""Garbage collection: removes objects that no commit claims, after a grace period."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import Entry, Store
from perturb.tasks.corpus.seal import finish_seals

log = logging.getLogger(__name__)
GRACE = timedelta(days=1)


@dataclass
class GarbageReport:
    """What was removed, or with `dry_run` would be: entries by the reason for which they are garbage."""

    dry_run: bool
    orphans: list[Entry] = field(default_factory=list)
    superseded: list[Entry] = field(default_factory=list)
    unfinished: list[Entry] = field(default_factory=list)

    @property
    def removed(self) -> list[Entry]:
        """All entries."""
        return self.orphans + self.superseded + self.unfinished

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.removed)


def collect_garbage(
    corpus: Corpus,
    *,
    grace: timedelta = GRACE,
    keep_superseded: timedelta = timedelta(days=7),
    dry_run: bool = False,
    now: datetime | None = None,
) -> GarbageReport:
    """Remove objects that no commit claims and that are older than `grace`, and rounds sealed `keep_superseded` ago.

    `grace` must be longer than any round or seal takes. Exports are kept: the next run of an interrupted export writes
    the same names and bytes. A round is removed only while all files of the sealed day that took it in exist.
    `dry_run` only reports. Raises CorpusError when the corpus contradicts itself, and StoreError when the store fails.
    """
    now = now or datetime.now(UTC)
    report = GarbageReport(dry_run)
    # A day is in the log before its manifest appears, so that both are read. Neither may be invalid.
    sealed = corpus.seal_log() if dry_run else finish_seals(corpus)
    by_round = {claim.round_id: manifest for manifest in (*corpus.manifests(), *sealed) for claim in manifest.rounds}
    whole: dict[str, bool] = {}
    for round_id, entries in _round_folders(corpus):
        commit = [entry for entry in entries if entry.key.endswith("/" + keys.COMMIT)]
        manifest = by_round.get(round_id)
        if manifest is not None:
            if now - manifest.sealed_at >= keep_superseded and _is_whole(corpus.store, manifest, whole):
                report.superseded += entries
        elif not commit and _is_old(entries, now, grace) and not _committed_by_now(corpus.store, entries):
            report.orphans += entries
    report.orphans += _unclaimed_sealed(corpus, sealed, now, grace)
    report.orphans += [entry for entry in corpus.store.entries(keys.PENDING) if _is_old([entry], now, grace)]
    report.unfinished += [entry for entry in corpus.store.unfinished() if _is_old([entry], now, grace)]
    if not dry_run:
        _remove(corpus.store, report)
    return report


def _remove(store: Store, report: GarbageReport) -> None:
    for entry in report.orphans + report.superseded:
        store.delete(entry.key)
    for entry in report.unfinished:
        store.discard(entry)
    log.info("removed %d objects, %d bytes", len(report.removed), report.size)


def _round_folders(corpus: Corpus) -> Iterator[tuple[str, list[Entry]]]:
    for day in corpus.round_days():
        folder = keys.day_folder(keys.ROUNDS, day)
        grouped: dict[str, list[Entry]] = defaultdict(list)
        for entry in corpus.store.entries(folder):
            grouped[entry.key.removeprefix(folder).partition("/")[0]].append(entry)
        yield from grouped.items()


def _is_old(entries: Sequence[Entry], now: datetime, grace: timedelta) -> bool:
    return all(now - entry.modified >= grace for entry in entries)


def _committed_by_now(store: Store, entries: Sequence[Entry]) -> bool:
    """Return whether the round has its commit object now. A listing may be older than the commit."""
    folder = entries[0].key.rpartition("/")[0]
    return store.head(f"{folder}/{keys.COMMIT}") is not None


def _is_whole(store: Store, manifest: Manifest, known: dict[str, bool]) -> bool:
    """Return True when a sealed day has all its files. Raises CorpusError otherwise: its rounds are the last copy."""
    if manifest.attempt not in known:
        sizes = {entry.key: entry.size for entry in store.entries(keys.attempt_folder(manifest.day, manifest.attempt))}
        missing = [entry.key for entry in manifest.files if sizes.get(entry.key) != entry.size]
        if missing:
            raise CorpusError(
                f"{missing[0]} of sealed day {manifest.day} is missing or truncated; restore it (its rounds are kept)"
            )
        known[manifest.attempt] = True
    return known[manifest.attempt]


def _unclaimed_sealed(corpus: Corpus, sealed: Sequence[Manifest], now: datetime, grace: timedelta) -> Iterator[Entry]:
    claimed = {entry.key for manifest in (*sealed, *corpus.manifests()) for entry in manifest.files}
    claimed |= {keys.manifest_key(manifest.day) for manifest in (*sealed, *corpus.manifests())}
    for entry in corpus.store.entries(keys.SEALED + "date="):
        if entry.key not in claimed and _is_old([entry], now, grace):
            yield entry


def clean_store(settings: Settings, *, dry_run: bool = False) -> GarbageReport:
    """Collect the garbage of the configured corpus, as `collect_garbage` with the `seal.keep_rounds_days` setting."""
    keep = timedelta(days=settings.seal.keep_rounds_days)
    return collect_garbage(Corpus.open(settings), keep_superseded=keep, dry_run=dry_run)
