"""The audit: checks from the bytes of a corpus alone that it is what was committed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date

from perturb.schemas.errors import CorpusError
from perturb.schemas.pair import Reverify
from perturb.schemas.record import Row
from perturb.schemas.settings import Settings
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.audit_duplicates import DuplicateAuditor
from perturb.tasks.corpus.audit_images import ImageAuditor
from perturb.tasks.corpus.audit_log import beginning, check_log, read_manifests, set_reached
from perturb.tasks.corpus.audit_report import AuditReport
from perturb.tasks.corpus.audit_rows import Fault, audit_day, audit_round
from perturb.tasks.corpus.audit_tasks import TaskAuditor
from perturb.tasks.corpus.local_reverifier import local_reverifier
from perturb.tasks.lineup.check_draw import DrawChecker

log = logging.getLogger(__name__)


def audit(
    corpus: Corpus,
    *,
    day: date | None = None,
    since: date | None = None,
    since_entry: int | None = None,
    sample: float = 1.0,
    reverify: Reverify | None = None,
    trust: Trust = ANYONE,
    tell: Callable[[str], None] = lambda _: None,
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
    `tell` gets what is read next.

    Faults of the corpus are returned and not raised. Raises StoreError when the store cannot be read, and CorpusError
    when there is nothing to audit for `day`.
    """
    report = AuditReport()
    auditor = ImageAuditor(fraction=sample, reverify=reverify)
    corpus.refuse_older_format()
    entries = Log(corpus.store, trust=trust)
    draws = DrawChecker(entries)
    first, since = beginning(entries, since, since_entry)
    manifests = read_manifests(corpus, report, since)
    records = check_log(corpus, entries, manifests, report, first)
    if day is None:
        set_reached(report, entries, records, manifests, first)
    live = _live_rounds(corpus, None if since is not None else manifests, manifests, trust, report)
    duplicates = DuplicateAuditor(corpus, live)
    tasks = TaskAuditor(corpus, since)
    for place, manifest in enumerate(manifests, start=1):
        if day is None or manifest.day == day:
            tell(f"day {manifest.day}, {place} of {len(manifests)}")
            where = keys.manifest_key(manifest.day)
            found = audit_day(corpus, manifest, where, auditor=auditor, draws=draws, trust=trust)
            report.days += 1
            report.add(found)
            report.faults += [Fault(*fault) for fault in tasks.add(found.tasks, where)]
            _check_duplicates(duplicates, {where: found.duplicates}, report)
    claims: dict[str, list[Row]] = {}
    for place, ref in enumerate(live, start=1):
        if day is None or ref.day == day:
            tell(f"live round {place} of {len(live)}")
            report.rounds += 1
            claims[ref.commit_key] = _audit_live(corpus, ref, report, tasks, auditor=auditor, draws=draws, trust=trust)
    # Together, so that each day that they name is read once.
    _check_duplicates(duplicates, claims, report)
    report.faults += [Fault(*fault) for fault in tasks.older_faults()]
    if day is not None and not report.days and not report.rounds:
        raise CorpusError(f"there is nothing to audit for {day}; `perturb status` lists the days of a corpus")
    return report


def _live_rounds(
    corpus: Corpus, known: Sequence[Manifest] | None, manifests: Sequence[Manifest], trust: Trust, report: AuditReport
) -> list[RoundRef]:
    """Return the live rounds by the days `known`, by default those of the log.

    Where the log, or the claims of a day, cannot be read, which is a fault, the days among `manifests` with claims say
    what is live.
    """
    try:
        return corpus.live_rounds(trust, manifests=known)
    except (CorpusError, ObjectMissing, ObjectCorrupt) as error:
        report.faults.append(Fault(keys.ROUNDS, f"which rounds are live is not certain: {error}"))
    readable = []
    for manifest in manifests:
        with suppress(CorpusError, ObjectMissing, ObjectCorrupt):
            corpus.claims(manifest)
            readable.append(manifest)
    return corpus.live_rounds(manifests=readable)


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
    tell: Callable[[str], None] = lambda _: None,
) -> AuditReport:
    """Audit the configured corpus, as `audit`. `deep` verifies the images that are read again in this process.

    Everything must be signed by one of `hotkeys` or, without any, by the own hotkey or a trusted validator of the
    settings. `allow_unsigned` also accepts what is not signed, which anybody may have written.

    Raises StoreError when the store cannot be read, ModelError where `deep` needs a classifier that cannot be loaded.
    """
    if deep:
        tell("loading the classifier")
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
        tell=tell,
    )
