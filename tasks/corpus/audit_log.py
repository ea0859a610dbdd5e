"""Audits the log and what it says about the sealed days: one tree without gaps, an entry for each manifest."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from itertools import chain, takewhile

from perturb.schemas.errors import CorpusError
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import read_day_table
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import day_entry, entry_day, first_sealed_since, logged_manifest
from perturb.sinks.log.entry import LogRecord, Totals, entry_place, log_key
from perturb.sinks.log.log import LOG, Log
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.tasks.corpus.audit_report import AuditReport
from perturb.tasks.corpus.audit_rows import Fault


def beginning(entries: Log, since: date | None, since_entry: int | None) -> tuple[int, date | None]:
    """Return the number of the first entry of the log to audit, and the first day.

    They are 0 and None for everything: without a beginning, and where the log is damaged behind it, which the audit of
    the log reports. Raises CorpusError for an entry that the log does not have.
    """
    if since is None and since_entry is None:
        return 0, None
    newest = entries.newest_that_counts()
    size = 0 if newest is None else newest.head.size
    if since_entry is not None and not 0 <= since_entry <= size:
        raise CorpusError(f"the log has no entry {since_entry}; it has {size}, numbered from 0: see `perturb log`")
    try:
        if since_entry is not None:
            records = entries.records(since_entry, size)
            days = (entry_day(record.entry) for record in records if record.entry.kind == "sealed-day")
            # Without a day behind the entry only live rounds are left.
            found = next(days, None)
            return since_entry, max(found or date.max, since or date.min)
        assert since is not None
        last = entries.newest_before(newest, "sealed-day")
        first = None if last is None else first_sealed_since(entries, last, since)
        return size if first is None else first.entry.sequence, since
    except (CorpusError, ObjectCorrupt):
        return 0, None


def read_manifests(corpus: Corpus, report: AuditReport, since: date | None) -> list[Manifest]:
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


def check_log(
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


def set_reached(
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
