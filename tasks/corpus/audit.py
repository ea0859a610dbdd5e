"""The audit: checks from the bytes of a corpus alone that it is what was committed."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, takewhile

from perturb.schemas.errors import AuditError, CorpusError
from perturb.schemas.pair import Reverify
from perturb.schemas.record import Row
from perturb.schemas.settings import Settings
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.day_tables import read_day_table
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import day_entry, entry_day, first_sealed_since, logged_manifest
from perturb.sinks.log.entry import LogRecord, Totals, entry_place, log_key
from perturb.sinks.log.log import LOG, Log
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.audit_duplicates import DuplicateAuditor
from perturb.tasks.corpus.audit_images import ImageAuditor
from perturb.tasks.corpus.audit_rows import AuditFindings, Fault, audit_day, audit_round
from perturb.tasks.corpus.audit_tasks import TaskAuditor
from perturb.tasks.corpus.local_reverifier import local_reverifier
from perturb.tasks.lineup.check_draw import DrawChecker

log = logging.getLogger(__name__)


@dataclass
class AuditReport:
    """What was audited, and its faults.

    `entries` counts those of the log, `unsigned` rounds and days without a signature, and `signers` those of each
    hotkey that they name. `reached` is the number of the log's entries up to which log and days were audited, by this
    audit or those that it goes on from, and `root` the root of the log of so many: `--since-entry` goes on there. They
    are 0 and None where one day was audited alone.
    """

    entries: int = 0
    days: int = 0
    rounds: int = 0
    records: int = 0
    images: int = 0
    reverified: int = 0
    unsigned: int = 0
    reached: int = 0
    root: str | None = None
    signers: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the audit found no fault."""
        return not self.faults

    def add(self, found: AuditFindings) -> None:
        """Add the findings of one round or day."""
        self.records += found.records
        self.images += found.images
        self.reverified += found.reverified
        if found.signer is None:
            self.unsigned += 1
        else:
            self.signers[found.signer] = self.signers.get(found.signer, 0) + 1
        self.faults += found.faults


class AuditFailed(AuditError):
    """An audit found faults; `report` has all of them, the message names the first."""

    def __init__(self, report: AuditReport):
        self.report = report
        first = report.faults[0]
        super().__init__(
            f"the audit found {len(report.faults)} faults, the first in {first.where}: {first.what}; "
            "`perturb audit` lists all"
        )

    def __reduce__(self) -> tuple[type["AuditFailed"], tuple[AuditReport]]:
        """Return how a copy is made: by the report, not by the message."""
        return type(self), (self.report,)


def audit(
    corpus: Corpus,
    *,
    day: date | None = None,
    since: date | None = None,
    since_entry: int | None = None,
    sample: float = 1.0,
    reverify: Reverify | None = None,
    trust: Trust = ANYONE,
) -> AuditReport:
    """Audit sealed days and live rounds, or those of one `day`.

    With `since` only the days from that one on are read, and the log from their first entry on; with `since_entry`, the
    log from that entry on and its days. The number of the entry behind the newest leaves live rounds only. The state of
    miners is compared with that of the day before, and the tasks of earlier days with those days, so that an audit that
    goes on where the last one ended leaves nothing out.

    Digests of metadata, counts, pointers, Merkle roots and signatures are always checked in full. `sample` is the share
    of images whose bytes are read; with 1 the digests of the shards are checked too. With `reverify` the audit is deep:
    metrics and flip of the images that were read are computed again. The draw of each round's target is repeated. Each
    round and day must be signed by a validator that `trust` names, and hold records of such validators only.

    Faults of the corpus are returned and not raised. Raises StoreError when the store cannot be read, and CorpusError
    when there is nothing to audit for `day`.
    """
    report = AuditReport()
    auditor = ImageAuditor(fraction=sample, reverify=reverify)
    corpus.refuse_older_format()
    entries = Log(corpus.store, trust=trust)
    draws = DrawChecker(entries)
    first, since = _beginning(entries, since, since_entry)
    manifests = _manifests(corpus, report, since)
    records = _check_log(corpus, entries, manifests, report, first)
    if day is None:
        _set_reached(report, entries, records, manifests, first)
    live = corpus.live_rounds(manifests=manifests if since is None else None)
    duplicates = DuplicateAuditor(corpus, live)
    tasks = TaskAuditor(corpus, since)
    for manifest in manifests:
        if day is None or manifest.day == day:
            where = keys.manifest_key(manifest.day)
            found = audit_day(corpus, manifest, where, auditor=auditor, draws=draws, trust=trust)
            report.days += 1
            report.add(found)
            report.faults += [Fault(*fault) for fault in tasks.add(found.tasks, where)]
            _check_duplicates(duplicates, {where: found.duplicates}, report)
    claims: dict[str, list[Row]] = {}
    for ref in live:
        if day is None or ref.day == day:
            report.rounds += 1
            claims[ref.commit_key] = _audit_live(corpus, ref, report, tasks, auditor=auditor, draws=draws, trust=trust)
    # Together, so that each day that they name is read once.
    _check_duplicates(duplicates, claims, report)
    report.faults += [Fault(*fault) for fault in tasks.older_faults()]
    if day is not None and not report.days and not report.rounds:
        raise CorpusError(f"there is nothing to audit for {day}; `perturb status` lists the days of a corpus")
    return report


def _audit_live(
    corpus: Corpus,
    ref: RoundRef,
    report: AuditReport,
    tasks: TaskAuditor,
    *,
    auditor: ImageAuditor,
    draws: DrawChecker,
    trust: Trust,
) -> list[Row]:
    """Audit a live round; return its duplicates."""
    try:
        stored = corpus.read_round(ref)
    except (CorpusError, ObjectMissing, ObjectCorrupt) as error:
        report.faults.append(Fault(ref.commit_key, str(error)))
        return []
    found = audit_round(corpus.store, ref, stored, auditor=auditor, draws=draws, trust=trust)
    report.add(found)
    report.faults += [Fault(*fault) for fault in tasks.add(found.tasks, ref.commit_key)]
    return found.duplicates


def _check_duplicates(auditor: DuplicateAuditor, claims: Mapping[str, Sequence[Row]], report: AuditReport) -> None:
    """Compare the duplicates of rounds and days, by their keys, with the records that they name."""
    places = {row["record_id"]: where for where, rows in claims.items() for row in rows}
    for row, what in auditor.faults([row for rows in claims.values() for row in rows]):
        report.faults.append(Fault(f"{places[row['record_id']]} record {row['record_id']}", what))


def _beginning(entries: Log, since: date | None, since_entry: int | None) -> tuple[int, date | None]:
    """Return the number of the first entry of the log to audit, and the first day; 0 and None for everything.

    Raises CorpusError for an entry that the log does not have.
    """
    if since is None and since_entry is None:
        return 0, None
    newest = entries.newest()
    if since_entry is not None:
        there = 0 if newest is None else newest.head.size
        if not 0 <= since_entry <= there:
            raise CorpusError(f"the log has no entry {since_entry}; it has {there}, numbered from 0: see `perturb log`")
        days = (entry_day(record.entry) for record in entries.records(since_entry) if record.entry.kind == "sealed-day")
        # Without a day behind the entry only live rounds are left.
        found = next(days, None)
        return since_entry, max(found or date.max, since or date.min)
    assert since is not None
    last = entries.newest_before(newest, "sealed-day")
    record = None if last is None else first_sealed_since(entries, last, since)
    size = 0 if newest is None else newest.head.size
    return size if record is None else record.entry.sequence, since


def _manifests(corpus: Corpus, report: AuditReport, since: date | None) -> list[Manifest]:
    """Return the manifests, from a day on, that can be read. The others are reported as faults."""
    found = []
    after = "" if since is None else keys.day_folder(keys.SEALED, since)[:-1]
    names = [entry.key.split("/") for entry in corpus.store.entries(keys.SEALED + "date=", after=after)]
    for folder in sorted({segments[1] for segments in names}):
        day = keys.folder_day(folder)
        if day is None:
            continue
        try:
            manifest = corpus.manifest(day)
        except (CorpusError, ObjectCorrupt) as error:
            report.faults.append(Fault(keys.manifest_key(day), str(error)))
            continue
        if manifest is not None:
            found.append(manifest)
    return found


def _check_log(
    corpus: Corpus, entries: Log, manifests: Sequence[Manifest], report: AuditReport, first: int
) -> list[LogRecord]:
    """Check that the log is one tree without gaps from entry `first` on, and that it and the manifests agree.

    Returns the entries that could be read.
    """
    records: list[LogRecord] = []
    before, previous = Totals(), None
    try:
        if first:
            earlier = entries.record(first - 1)
            before, sealed = earlier.entry.totals, entries.newest_before(earlier, "sealed-day")
            previous = None if sealed is None else entry_day(sealed.entry)
        records.extend(entries.records(first))
        if records and not first:
            entries.leaves(records[-1])
    except (CorpusError, ObjectCorrupt) as error:
        report.faults.append(Fault(LOG, str(error)))
    after = log_key(first - 1) if first else ""
    # By their first digit, so that the tiles, of which an old log has many, are not listed.
    for entry in chain.from_iterable(corpus.store.entries(f"{LOG}{digit}", after=after) for digit in range(10)):
        place = entry_place(entry.key)
        if (
            place is not None
            and place >= first + len(records)
            and not any(fault.where == LOG for fault in report.faults)
        ):
            report.faults.append(Fault(entry.key, "entries before it are missing from the log; restore them"))
    report.entries = len(records)
    there = {manifest.day: manifest for manifest in manifests}
    broken = {fault.where for fault in report.faults}
    claims: dict[str, date] = {}
    for record in records:
        if record.entry.kind == "sealed-day":
            previous = _check_previous(record, there, previous, report)
            last = record.entry.sequence == records[-1].entry.newest["sealed-day"]
            _check_sealed(corpus, record, before, there, claims, report, broken, last=last)
        elif record.entry.totals != before:
            report.faults.append(Fault(record.where, "its totals differ from those before it, but it seals no day"))
        before = record.entry.totals
    for day in there:
        report.faults.append(Fault(keys.manifest_key(day), "the log has no entry of this day"))
    return records


def _set_reached(
    report: AuditReport, entries: Log, records: Sequence[LogRecord], manifests: Sequence[Manifest], first: int
) -> None:
    """Say how far the audit came: to before the first sealed day whose manifest is not published yet."""
    there = {keys.manifest_key(manifest.day) for manifest in manifests}
    audited = takewhile(lambda record: record.entry.kind != "sealed-day" or record.entry.key in there, records)
    report.reached = first + sum(1 for _ in audited)
    if report.reached > first:
        report.root = records[report.reached - first - 1].head.root
    elif first:
        with suppress(CorpusError):
            report.root = entries.record(first - 1).head.root


def _check_previous(
    record: LogRecord, there: Mapping[date, Manifest], previous: date | None, report: AuditReport
) -> date | None:
    """Check that a sealed day names the one before it in the log; return the day."""
    try:
        day = entry_day(record.entry)
    except CorpusError:
        return previous
    if day in there and there[day].previous_day != previous:
        stated = there[day].previous_day
        report.faults.append(Fault(keys.manifest_key(day), f"it follows on {stated}, in the log on {previous}"))
    return day


def _check_sealed(
    corpus: Corpus,
    record: LogRecord,
    before: Totals,
    there: dict[date, Manifest],
    claims: dict[str, date],
    report: AuditReport,
    broken: set[str],
    *,
    last: bool,
) -> None:
    """Check the entry of one sealed day against its manifest, which is taken out of `there`."""
    try:
        day = entry_day(record.entry)
    except CorpusError as error:
        report.faults.append(Fault(record.where, str(error)))
        return
    key = keys.manifest_key(day)
    manifest = there.pop(day, None)
    if manifest is None:
        # The next sealer publishes what the last one entered before it died.
        if key not in broken and not (last and _is_finished_later(corpus, record)):
            report.faults.append(Fault(key, f"{day} was sealed, but its manifest is missing"))
        return
    if manifest.sha256 != record.entry.sha256:
        report.faults.append(Fault(key, f"it differs from {record.where}"))
        return
    stated = day_entry(manifest)
    if record.entry.detail != stated.detail or record.entry.totals != before.plus(stated.adds):
        report.faults.append(Fault(record.where, f"its detail or totals do not follow from the manifest of {day}"))
    _check_claims(corpus, manifest, claims, report)


def _is_finished_later(corpus: Corpus, record: LogRecord) -> bool:
    """Return whether the manifest waits beside the day's files, and the day's rounds still exist."""
    try:
        table = read_day_table(corpus.store, logged_manifest(corpus.store, record), "claims")
    except (CorpusError, ObjectMissing, ObjectCorrupt):
        return False
    places = zip(table["date"].to_pylist(), table["round_id"].to_pylist(), strict=True)
    return all(corpus.store.head(keys.commit_key(day, round_id)) is not None for day, round_id in places)


def _check_claims(corpus: Corpus, manifest: Manifest, claims: dict[str, date], report: AuditReport) -> None:
    """Report rounds that two days took in. A day whose claims cannot be read is reported by its own audit."""
    try:
        rounds = corpus.claims(manifest)
    except (CorpusError, ObjectMissing, ObjectCorrupt):
        return
    for round_id in sorted(rounds):
        if (first := claims.setdefault(round_id, manifest.day)) != manifest.day:
            where = keys.manifest_key(manifest.day)
            report.faults.append(Fault(where, f"round {round_id} was sealed in {first} too"))


def audit_store(
    settings: Settings,
    *,
    day: date | None = None,
    since: date | None = None,
    since_entry: int | None = None,
    sample: float = 1.0,
    deep: bool = True,
    hotkeys: Sequence[str] = (),
    allow_unsigned: bool = False,
) -> AuditReport:
    """Audit the configured corpus, as `audit`. `deep` verifies the images that are read again in this process.

    Everything must be signed by one of `hotkeys` or, without any, by the own hotkey or a trusted validator of the
    settings. `allow_unsigned` also accepts what is not signed, which anybody may have written.

    Raises StoreError when the store cannot be read, ModelError where `deep` needs a classifier that cannot be loaded.
    """
    reverify = local_reverifier(settings) if deep else None
    trust = load_trust(settings.subnet, hotkeys=hotkeys, allow_unsigned=allow_unsigned)
    return audit(
        Corpus.open(settings),
        day=day,
        since=since,
        since_entry=since_entry,
        sample=sample,
        reverify=reverify,
        trust=trust,
    )
