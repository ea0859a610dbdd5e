"""Sealing: the finished rounds of a day become one immutable, signed day."""

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.record import Row
from perturb.schemas.settings import SealSettings
from perturb.schemas.signature import Signer
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import TableKind, read_state, rows_of, write_day_table
from perturb.sinks.corpus.day_writer import DayTotals, day_writer
from perturb.sinks.corpus.manifest import Kind, Manifest, Reverified, RoundName
from perturb.sinks.corpus.miner_state import advance, state_table
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.corpus.sealed_days import day_entry, logged_manifest, newest_sealed, sealed_record
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.log.entry import LogRecord
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt
from perturb.tasks.corpus.own_rounds import ADVICE, LoadedRound, OwnRounds

log = logging.getLogger(__name__)
_BATCH = 64
# How many batches may be verified again while the next rounds are read and written.
_BATCHES_AHEAD = 8
_ATTEMPTS = 5


@dataclass(frozen=True)
class SealResult:
    """A sealed day. `already` tells that it was sealed before this call.

    `left` counts the rounds that were not taken in, by the sentence that says why.
    """

    manifest: Manifest
    already: bool
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The size of the day's files in bytes."""
        return self.manifest.size


def closes_at(day: date, settings: SealSettings) -> datetime:
    """Return when a day may be sealed: at the midnight UTC after it, plus the grace time for rounds in flight."""
    midnight = datetime.combine(day + timedelta(days=1), clock_time(), UTC)
    return midnight + timedelta(minutes=settings.grace_minutes)


def seal_day(
    corpus: Corpus,
    day: date,
    *,
    settings: SealSettings,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    signer: Signer | None = None,
    reverify: Reverify | None = None,
    early: bool = False,
    wait: bool = False,
    trust: Trust = ANYONE,
) -> SealResult:
    """Seal all unclaimed rounds of partitions up to `day` as that day. A day that is sealed already stays as it is.

    Only rounds that a validator of `trust` signed, and that are what was signed, are taken in. The others stay live,
    whatever they hold, and a warning names each.

    A day that is not over is refused, unless `wait` sleeps until it is or `early` allows it. `reverify` verifies a
    random share of the accepted records again. Several sealers may run at once: one of them creates the next entry of
    the log, the others begin again with the rounds that are left.

    Raises CorpusError for a day without such rounds, for a day before the last sealed one, and for records that do not
    verify again; then nothing was sealed. Raises StoreError when the store fails.
    """
    if wait and not early:
        time.sleep(max(0.0, (closes_at(day, settings) - now()).total_seconds()))
    entries = Log(corpus.store, trust=trust)
    for _ in range(_ATTEMPTS):
        last = entries.newest()
        if last is None:
            corpus.refuse_older_format()
        sealed = finish_seal(corpus, entries, last, trust)
        if (manifest := _sealed_as(entries, last, sealed, day)) is not None:
            return SealResult(manifest, already=True)
        if fault := unlogged(corpus, day, trust):
            if _length(entries.newest()) > _length(last):
                continue  # Another sealer has just entered and published it.
            raise CorpusError(fault)
        _check_may_seal(day, sealed, settings=settings, now=now(), early=early)
        rounds = corpus.live_rounds(until=day, trust=trust)
        if not rounds:
            later = corpus.live_rounds(trust=trust)
            advice = f"--day {later[-1].day} has some" if later else "produce some, or name another day"
            raise CorpusError(f"there are no rounds to seal for {day}; {advice}")
        own = OwnRounds(corpus, rounds, trust)
        manifest = _build(corpus, day, own, sealed, settings=settings, now=now(), signer=signer, reverify=reverify)
        _check_present(corpus, manifest)
        if _entered(entries, last, manifest, signer=signer, at=now()):
            _publish(corpus, manifest)
            return SealResult(manifest, already=False, left=dict(own.left))
        log.info("another sealer was first; sealing the rounds that are left for %s", day)
    raise CorpusError(f"{day} could not be sealed in {_ATTEMPTS} tries: other sealers were faster; run it again")


def _length(newest: LogRecord | None) -> int:
    return 0 if newest is None else newest.head.size


def unlogged(corpus: Corpus, day: date, trust: Trust) -> str | None:
    """Return a sentence where a validator of `trust` published the manifest of `day`, which the log does not have.

    A manifest is published after its entry, so that such a log was cut. Another manifest is a stranger's.
    """
    try:
        manifest = corpus.manifest(day)
    except (CorpusError, ObjectCorrupt):
        return None
    if manifest is None or manifest.refusal(trust):
        return None
    return (
        f"{keys.manifest_key(day)} is signed by {manifest.signer or 'no one'}, but the log has no entry of {day}: it "
        "was cut; restore the log from a copy"
    )


def finish_seal(corpus: Corpus, entries: Log, newest: LogRecord | None, trust: Trust = ANYONE) -> Manifest | None:
    """Publish the manifest of a trusted sealer that died between log and manifest; return that of the newest day.

    `newest` is the log's newest entry. Returns None before the first day is sealed.
    """
    manifest = newest_sealed(entries, newest, trust)
    if manifest is not None:
        _publish(corpus, manifest)
    return manifest


def _sealed_as(entries: Log, last: LogRecord | None, newest: Manifest | None, day: date) -> Manifest | None:
    """Return the manifest that the log up to `last` has of a day, or None. Only the log says that a day is sealed.

    `newest` is the manifest of its newest day.
    """
    if newest is None or day >= newest.day:
        return newest if newest is not None and day == newest.day else None
    sealed = entries.newest_before(last, "sealed-day")
    record = None if sealed is None else sealed_record(entries, sealed, day)
    return None if record is None else logged_manifest(entries.store, record)


def _entered(entries: Log, last: LogRecord | None, manifest: Manifest, *, signer: Signer | None, at: datetime) -> bool:
    """Enter a day behind `last` or behind later entries of other kinds. Returns False where another day is among them.

    That day may have taken in the same rounds.
    """
    while entries.try_append(last, day_entry(manifest), signer=signer, at=at) is None:
        last = entries.record(0 if last is None else last.head.size)
        if last.entry.kind == "sealed-day":
            return False
    return True


def _publish(corpus: Corpus, manifest: Manifest) -> None:
    """Put the manifest of a day that is in the log in its place, also where somebody put other bytes there."""
    key, data = keys.manifest_key(manifest.day), manifest.to_json()
    if not corpus.store.put_new(key, data):
        log.warning("%s differs from its entry in the log and is replaced; find out who can write to the store", key)
        corpus.store.put(key, data)


def _check_present(corpus: Corpus, manifest: Manifest) -> None:
    """Raise CorpusError when files of the day are gone, as after a suspension in which they were collected."""
    draft = keys.attempt_folder(manifest.day, manifest.attempt) + keys.MANIFEST
    sizes = {entry.key: entry.size for entry in manifest.files} | {draft: len(manifest.to_json())}
    for key, size in sizes.items():
        stored = corpus.store.head(key)
        if stored is None or stored.size != size:
            raise CorpusError(f"{key} was deleted before {manifest.day} was sealed; seal the day again")


def _check_may_seal(day: date, sealed: Manifest | None, *, settings: SealSettings, now: datetime, early: bool) -> None:
    last = None if sealed is None else sealed.day
    if last is not None and day < last:
        raise CorpusError(f"{day} cannot be sealed after {last}; its rounds go into the next sealed day")
    if not early and now < closes_at(day, settings):
        raise CorpusError(
            f"{day} is open until {closes_at(day, settings):%Y-%m-%d %H:%M} UTC; seal it then, or use --early"
        )


def _build(
    corpus: Corpus,
    day: date,
    rounds: OwnRounds,
    before: Manifest | None,
    *,
    settings: SealSettings,
    now: datetime,
    signer: Signer | None,
    reverify: Reverify | None,
) -> Manifest:
    """Write the day's files and their manifest, and return it. The day is sealed when the log has an entry of it."""
    # Each try has its own folder, so that sealers never share a file name and no file is older than its try.
    attempt = secrets.token_hex(8)
    folder = keys.attempt_folder(day, attempt)
    sampler = _Sampler(settings.reverify_fraction if reverify else 0.0, reverify)
    claims: list[Row] = []
    with day_writer(corpus.store, folder, day=day.isoformat(), shard_bytes=settings.shard_bytes) as writer:
        for loaded in rounds:
            perturbed = None if loaded.perturbed is None else memoryview(loaded.perturbed)
            writer.add(loaded.stored, memoryview(loaded.original), perturbed)
            sampler.add(loaded)
            claims.append(_claim(loaded.stored))
        if not claims:
            reasons = "; ".join(sorted(rounds.left))
            raise CorpusError(f"none of the {len(rounds.refs)} rounds up to {day} may be sealed: {reasons}; {ADVICE}")
        # Inside the block, so that a day with a record that does not verify again is not published.
        reverified = sampler.result()
    _write_tables(corpus, day, folder, writer.totals, claims, before)
    manifest = _manifest(day, attempt, writer.totals, claims, before, reverified, now).signed(signer)
    # Before its entry, so that another sealer can publish it if this one dies in between.
    corpus.store.put_new(folder + keys.MANIFEST, manifest.to_json())
    return manifest


def _claim(stored: StoredRound) -> Row:
    return {
        "date": stored.day,
        "round_id": stored.statement.round_id,
        "commit_sha256": stored.commit_sha256,
        "merkle_root": stored.statement.merkle_root,
        "records": stored.statement.records,
    }


def _write_tables(
    corpus: Corpus, day: date, folder: str, totals: DayTotals, claims: Sequence[Row], before: Manifest | None
) -> None:
    """Write the tables beside the metadata, and say below `keys.LATE` which earlier days the day has records of."""
    state = read_state(corpus.store, before) if before is not None else {}
    tables: dict[TableKind, pa.Table] = {
        "claims": rows_of(claims, "claims"),
        "models": rows_of(totals.models(), "models"),
        "statistics": rows_of(totals.statistics(), "statistics"),
        "miners": state_table(advance(state, totals.asked, day=day)),
    }
    with ThreadPoolExecutor(len(tables)) as pool:
        written = pool.map(
            lambda kind: write_day_table(corpus.store, folder, kind, tables[kind], day=day), sorted(tables)
        )
        totals.files += written
    totals.files.sort(key=lambda entry: entry.key)
    for earlier in sorted(totals.made_on - {day}):
        corpus.store.put_new(keys.late_key(earlier, day), b"")


class _Sampler:
    """Passes a random share of the accepted records to `reverify`, a batch at a time."""

    def __init__(self, fraction: float, reverify: Reverify | None):
        self._fraction, self._reverify = fraction, reverify
        self._random = random.SystemRandom()
        self._batch: list[Pair] = []
        self._pending: deque[tuple[list[str], Iterable[str | None]]] = deque()
        self._done = 0

    def add(self, loaded: LoadedRound) -> None:
        """Draw from a round's accepted records. Raises CorpusError for one that does not verify again."""
        if self._reverify is None or loaded.perturbed is None:
            return
        for row in loaded.stored.rows:
            if row["outcome"] != Outcome.ACCEPTED or self._random.random() >= self._fraction:
                continue
            original = _slice(loaded.original, row, "original")
            self._batch.append(Pair(original, _slice(loaded.perturbed, row, "perturbed"), row))
            if len(self._batch) >= _BATCH:
                self._start()
        while len(self._pending) > _BATCHES_AHEAD:
            self._collect_oldest()

    def _start(self) -> None:
        if self._reverify is not None and self._batch:
            names = [pair.row["record_id"] for pair in self._batch]
            self._pending.append((names, self._reverify(self._batch)))
            self._batch = []

    def _collect_oldest(self) -> None:
        names, faults = self._pending.popleft()
        for name, fault in zip(names, faults, strict=True):
            if fault is not None:
                raise CorpusError(f"record {name} does not verify again: {fault}; nothing was sealed")
        self._done += len(names)

    def result(self) -> Reverified:
        """Wait for all batches; return their count. Raises CorpusError for a record that does not verify again."""
        self._start()
        while self._pending:
            self._collect_oldest()
        return Reverified(fraction=self._fraction, records=self._done)


def _slice(tar: bytes, row: Row, image: Kind) -> bytes:
    offset: int = row[f"{image}_offset"]
    length: int = row[f"{image}_length"]
    return tar[offset : offset + length]


def _manifest(
    day: date,
    attempt: str,
    totals: DayTotals,
    claims: Sequence[Row],
    before: Manifest | None,
    reverified: Reverified,
    now: datetime,
) -> Manifest:
    names = [(claim["round_id"], claim["date"]) for claim in claims]
    return Manifest(
        format=FORMAT,
        day=day,
        sealed_at=now,
        attempt=attempt,
        records=len(totals.leaves),
        originals=totals.originals,
        images=totals.images,
        duplicates=totals.duplicates,
        merkle_root=totals.merkle_root,
        outcomes=dict(totals.outcomes),
        validators=tuple(sorted(totals.validators)),
        files=tuple(totals.files),
        rounds=len(claims),
        first_round=_named(min(names)) if names else None,
        last_round=_named(max(names)) if names else None,
        previous_day=None if before is None else before.day,
        reverified=reverified,
    )


def _named(round: tuple[str, date]) -> RoundName:
    return RoundName(date=round[1], round_id=round[0])
