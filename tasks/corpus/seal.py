"""Sealing: the finished rounds of a day become one immutable, signed day."""

import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair, Reverify
from perturb.schemas.record import Row
from perturb.schemas.settings import SealSettings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.day_writer import DayTotals, day_writer, model_entries
from perturb.sinks.corpus.manifest import Claim, Kind, Manifest, Reverified, Signer
from perturb.sinks.corpus.pointers import check_pointers
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.version import FORMAT

log = logging.getLogger(__name__)
_BATCH = 64
# How many batches may be verified again while the next rounds are read and written.
_BATCHES_AHEAD = 8
_ATTEMPTS = 5


@dataclass(frozen=True)
class SealResult:
    """A sealed day. `already` tells that it was sealed before this call."""

    manifest: Manifest
    already: bool

    @property
    def size(self) -> int:
        """The size of the day's files in bytes."""
        return sum(entry.size for entry in self.manifest.files)


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
) -> SealResult:
    """Seal all unclaimed rounds of partitions up to `day` as that day. A day that is sealed already stays as it is.

    A day that is not over is refused, unless `wait` sleeps until it is or `early` allows it. `reverify` verifies a
    random share of the accepted records again. Several sealers may run at once: one of them creates the next entry of
    the seal log, the others begin again with the rounds that are left.

    Raises CorpusError for a day without rounds, for a day before the last sealed one, and for rounds that are damaged
    or do not verify again; then nothing was sealed. Raises StoreError when the store fails.
    """
    if wait and not early:
        time.sleep(max(0.0, (closes_at(day, settings) - now()).total_seconds()))
    for _ in range(_ATTEMPTS):
        sealed = finish_seals(corpus)
        if (manifest := corpus.manifest(day)) is not None:
            return SealResult(manifest, already=True)
        _check_may_seal(day, sealed, settings=settings, now=now(), early=early)
        rounds = corpus.live_rounds(until=day)
        if not rounds:
            raise CorpusError(f"there are no rounds to seal for {day}; produce some, or name another day")
        manifest = _build(corpus, day, rounds, sealed, settings=settings, now=now(), signer=signer, reverify=reverify)
        _check_present(corpus, manifest)
        if corpus.store.put_new(keys.log_key(manifest.sequence), manifest.to_json()):
            _publish(corpus, manifest)
            return SealResult(manifest, already=False)
        log.info("another sealer was first; sealing the rounds that are left for %s", day)
    raise CorpusError(f"{day} could not be sealed in {_ATTEMPTS} tries: other sealers were faster; run it again")


def finish_seals(corpus: Corpus) -> list[Manifest]:
    """Publish the manifest of a sealer that died between log and manifest; return the seal log."""
    sealed = corpus.seal_log()
    for manifest in sealed[-1:]:
        _publish(corpus, manifest)
    return sealed


def _publish(corpus: Corpus, manifest: Manifest) -> None:
    key = keys.manifest_key(manifest.day)
    if not corpus.store.put_new(key, manifest.to_json()):
        raise CorpusError(f"{key} differs from its entry in the seal log; run `perturb audit` and restore it")


def _check_present(corpus: Corpus, manifest: Manifest) -> None:
    """Raise CorpusError when files of the day are gone, as after a suspension in which they were collected."""
    for entry in manifest.files:
        stored = corpus.store.head(entry.key)
        if stored is None or stored.size != entry.size:
            raise CorpusError(f"{entry.key} was deleted before {manifest.day} was sealed; seal the day again")


def _check_may_seal(
    day: date, sealed: Sequence[Manifest], *, settings: SealSettings, now: datetime, early: bool
) -> None:
    last = max((manifest.day for manifest in sealed), default=None)
    if last is not None and day < last:
        raise CorpusError(f"{day} cannot be sealed after {last}; its rounds go into the next sealed day")
    if not early and now < closes_at(day, settings):
        raise CorpusError(
            f"{day} is open until {closes_at(day, settings):%Y-%m-%d %H:%M} UTC; seal it then, or use --early"
        )


def _build(
    corpus: Corpus,
    day: date,
    rounds: Sequence[RoundRef],
    sealed: Sequence[Manifest],
    *,
    settings: SealSettings,
    now: datetime,
    signer: Signer | None,
    reverify: Reverify | None,
) -> Manifest:
    """Write the day's files and return their manifest. The day is sealed when the manifest is in the seal log."""
    # Each try has its own folder, so that sealers never share a file name and no file is older than its try.
    attempt = secrets.token_hex(8)
    folder = keys.attempt_folder(day, attempt)
    sampler = _Sampler(settings.reverify_fraction if reverify else 0.0, reverify)
    claims: list[Claim] = []
    with day_writer(corpus.store, folder, day=day.isoformat(), shard_bytes=settings.shard_bytes) as writer:
        for stored, original, perturbed in _read_ahead(corpus, rounds):
            writer.add(stored, memoryview(original), None if perturbed is None else memoryview(perturbed))
            sampler.add(stored, original, perturbed)
            claims.append(_claim(stored))
        # Inside the block, so that a day with a record that does not verify again is not published.
        reverified = sampler.result()
    return _manifest(day, attempt, writer.totals, claims, sealed, reverified, now).signed(signer)


_Loaded = tuple[StoredRound, bytes, bytes | None]


def _read_ahead(corpus: Corpus, rounds: Sequence[RoundRef], depth: int = 2) -> Iterator[_Loaded]:
    """Yield rounds in order. A thread reads and checks the next ones while the caller writes."""
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(load_round, corpus, ref) for ref in rounds[:depth]]
        try:
            for place in range(len(rounds)):
                loaded = pending.pop(0).result()
                if place + depth < len(rounds):
                    pending.append(pool.submit(load_round, corpus, rounds[place + depth]))
                yield loaded
        finally:
            for future in pending:
                future.cancel()


def load_round(corpus: Corpus, ref: RoundRef) -> _Loaded:
    """Return a round's metadata and its tars, after a comparison with the round's own statement.

    Raises CorpusError that names the round and the first fault.
    """
    stored = corpus.read_round(ref)
    folder = keys.round_folder(ref.day, ref.round_id)
    tars = {entry.kind: corpus.store.get(folder + entry.key, sha256=entry.sha256) for entry in stored.statement.files}
    faults = stored.faults()
    for entry in stored.statement.files:
        faults += check_pointers(stored.rows, folder + entry.key, entry, tars[entry.kind])
    if faults:
        raise CorpusError(f"round {ref.round_id} ({ref.day}) is damaged: {faults[0]}; run `perturb audit`")
    return stored, tars["original"], tars.get("perturbed")


def _claim(stored: StoredRound) -> Claim:
    return Claim(
        date=stored.day,
        round_id=stored.statement.round_id,
        commit_sha256=stored.commit_sha256,
        merkle_root=stored.statement.merkle_root,
        records=stored.statement.records,
    )


class _Sampler:
    """Passes a random share of the accepted records to `reverify`, a batch at a time."""

    def __init__(self, fraction: float, reverify: Reverify | None):
        self._fraction, self._reverify = fraction, reverify
        self._random = random.SystemRandom()
        self._batch: list[Pair] = []
        self._pending: deque[tuple[list[str], Iterable[str | None]]] = deque()
        self._done = 0

    def add(self, stored: StoredRound, original: bytes, perturbed: bytes | None) -> None:
        """Draw from a round's accepted records. Raises CorpusError for one that does not verify again."""
        if self._reverify is None or perturbed is None:
            return
        for row in stored.rows:
            if row["outcome"] != Outcome.ACCEPTED or self._random.random() >= self._fraction:
                continue
            self._batch.append(Pair(_slice(original, row, "original"), _slice(perturbed, row, "perturbed"), row))
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
    claims: Sequence[Claim],
    sealed: Sequence[Manifest],
    reverified: Reverified,
    now: datetime,
) -> Manifest:
    return Manifest(
        format=FORMAT,
        day=day,
        sequence=len(sealed),
        previous=sealed[-1].sha256 if sealed else None,
        sealed_at=now,
        attempt=attempt,
        records=len(totals.leaves),
        originals=totals.originals,
        images=totals.images,
        duplicates=totals.duplicates,
        merkle_root=totals.merkle_root,
        outcomes=dict(totals.outcomes),
        statistics=totals.statistics(),
        classifiers=model_entries(totals.classifiers),
        judges=model_entries(totals.judges),
        policies=tuple(sorted(totals.policies)),
        validators=tuple(sorted(totals.validators)),
        files=tuple(totals.files),
        rounds=tuple(claims),
        reverified=reverified,
    )
