"""Garbage collection: removes objects that no commit claims, after a grace period."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import HORIZON, Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import newest_sealed
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import Entry, Store
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.seal import finish_seal, unlogged

log = logging.getLogger(__name__)
GRACE = timedelta(days=1)
_SEALED_BACK = timedelta(days=3)


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
    keep_answers: timedelta | None = None,
    all_days: bool = False,
    dry_run: bool = False,
    now: datetime | None = None,
    trust: Trust = ANYONE,
) -> GarbageReport:
    """Remove objects that no commit claims and that are older than `grace`, and rounds sealed `keep_superseded` ago.

    `grace` must be longer than any round or seal takes. Exports are kept: the next run of an interrupted export writes
    the same names and bytes. A round is removed only while all files of the sealed day that took it in exist, and only
    for a day that a validator of `trust` signed: anybody's manifest may claim a round. What is remembered of accepted
    answers to a photograph is removed when nothing was added to it for `keep_answers` and `grace`; without
    `keep_answers` it is kept. What an interrupted seal left is looked for from a few days before the oldest round on;
    with `all_days`, in all sealed days. `dry_run` only reports.

    Raises CorpusError when the corpus contradicts itself, and StoreError when the store fails.
    """
    now = now or datetime.now(UTC)
    report = GarbageReport(dry_run)
    # A day is in the log before its manifest appears. Neither may be invalid.
    events = Log(corpus.store, trust=trust)
    newest = events.newest()
    logged = newest_sealed(events, newest, trust) if dry_run else finish_seal(corpus, events, newest, trust)
    sealed = [logged] if logged is not None else []
    # What an interrupted seal left lies beside rounds that are still there, or were a few days ago.
    days = [*corpus.round_days(), *(day.day for day in sealed), now.date()]
    since = date.min if all_days else min(days) - _SEALED_BACK
    recent = list(corpus.days_back(trust)) if all_days else corpus.newest_days(since, trust)
    own = [day for day in (*recent, *sealed) if day.refusal(trust) is None]
    by_round = {round_id: manifest for manifest in own for round_id in corpus.claims(manifest)}
    whole: dict[str, bool] = {}
    for round_id, entries in _round_folders(corpus):
        commit = [entry for entry in entries if entry.key.endswith("/" + keys.COMMIT)]
        manifest = by_round.get(round_id)
        if manifest is not None:
            if now - manifest.sealed_at >= keep_superseded and _is_whole(corpus.store, manifest, whole):
                report.superseded += entries
        elif not commit and _is_old(entries, now, grace) and not _committed_by_now(corpus.store, entries):
            report.orphans += entries
    report.orphans += _unclaimed_sealed(corpus, [*recent, *sealed], since, now, grace, trust)
    report.orphans += [entry for entry in corpus.store.entries(keys.PENDING) if _is_old([entry], now, grace)]
    if keep_answers is not None:
        # What was claimed last for these photographs is out of the window, and with it all that was claimed before.
        answers = (entry for entry in corpus.store.entries(keys.ANSWERS) if entry.key != keys.ANSWERS_NOTE)
        report.superseded += [entry for entry in answers if _is_old([entry], now, keep_answers + grace)]
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


def _unclaimed_sealed(
    corpus: Corpus, sealed: Sequence[Manifest], since: date, now: datetime, grace: timedelta, trust: Trust
) -> Iterator[Entry]:
    """Yield what lies in the folders of sealed days from `since` on and belongs to none of `sealed`.

    Raises CorpusError for what `unlogged` finds: what a log that was cut no longer has may be needed again.
    """
    claimed = {entry.key for manifest in sealed for entry in manifest.files}
    for manifest in sealed:
        draft = keys.attempt_folder(manifest.day, manifest.attempt) + keys.MANIFEST
        claimed |= {keys.manifest_key(manifest.day), draft}
    # Days before the newest `HORIZON` were not read, if `since` lies before these.
    oldest = since if len(sealed) < HORIZON or since == date.min else max(since, sealed[0].day)
    for entry in corpus.store.entries(keys.SEALED + "date=", after=keys.day_folder(keys.SEALED, oldest)):
        if entry.key not in claimed and _is_old([entry], now, grace):
            folder, _, name = entry.key.removeprefix(keys.SEALED).partition("/")
            day = keys.folder_day(folder) if name == keys.MANIFEST else None
            if day is not None and (fault := unlogged(corpus, day, trust)):
                raise CorpusError(fault)
            yield entry


def clean_store(settings: Settings, *, all_days: bool = False, dry_run: bool = False) -> GarbageReport:
    """Collect the garbage of the configured corpus, as `collect_garbage`, with the settings `seal.keep_rounds_days` and
    `challenge.replay_days`.
    """
    keep = timedelta(days=settings.seal.keep_rounds_days)
    answers = timedelta(days=settings.challenge.replay_days)
    trust = load_trust(settings.subnet)
    return collect_garbage(
        Corpus.open(settings),
        keep_superseded=keep,
        keep_answers=answers,
        all_days=all_days,
        dry_run=dry_run,
        trust=trust,
    )
