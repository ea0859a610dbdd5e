"""The audit: checks from the bytes of a corpus alone that it is what was committed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from perturb.schemas.errors import AuditError, CorpusError
from perturb.schemas.pair import Reverify
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.tasks.corpus.audit_images import ImageAuditor
from perturb.tasks.corpus.audit_rows import AuditFindings, Fault, audit_day, audit_round
from perturb.tasks.corpus.local_reverifier import local_reverifier

log = logging.getLogger(__name__)


@dataclass
class AuditReport:
    """What was audited, and its faults. `unsigned` counts rounds and days without a signature."""

    days: int = 0
    rounds: int = 0
    records: int = 0
    images: int = 0
    reverified: int = 0
    unsigned: int = 0
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
        self.unsigned += not found.signed
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
    sample: float = 1.0,
    reverify: Reverify | None = None,
    hotkey: str | None = None,
) -> AuditReport:
    """Audit sealed days and live rounds, or those of one `day`.

    Digests of metadata, counts, pointers, Merkle roots and signatures are always checked in full. `sample` is the share
    of images whose bytes are read; with 1 the digests of the shards are checked too. With `reverify` the audit is deep:
    metrics and flip of the images that were read are computed again. With `hotkey`, each round and day must be signed
    by that validator.

    Faults of the corpus are returned and not raised. Raises StoreError when the store cannot be read, and CorpusError
    when there is nothing to audit for `day`.
    """
    report = AuditReport()
    auditor = ImageAuditor(fraction=sample, reverify=reverify)
    manifests = _manifests(corpus, report)
    _check_chain(corpus, manifests, report)
    seen: dict[str, str] = {}
    for manifest in manifests:
        if day is None or manifest.day == day:
            where = keys.manifest_key(manifest.day)
            found = audit_day(corpus, manifest, where, auditor=auditor, hotkey=hotkey)
            report.days += 1
            report.add(found)
            _check_tasks(found, where, seen, report)
    for ref in corpus.live_rounds(manifests=manifests):
        if day is None or ref.day == day:
            report.rounds += 1
            _audit_live(corpus, ref, report, seen, auditor=auditor, hotkey=hotkey)
    if day is not None and not report.days and not report.rounds:
        raise CorpusError(f"there is nothing to audit for {day}; `perturb status` lists the days of a corpus")
    return report


def _audit_live(
    corpus: Corpus,
    ref: RoundRef,
    report: AuditReport,
    seen: dict[str, str],
    *,
    auditor: ImageAuditor,
    hotkey: str | None,
) -> None:
    try:
        stored = corpus.read_round(ref)
    except (CorpusError, ObjectMissing, ObjectCorrupt) as error:
        report.faults.append(Fault(ref.commit_key, str(error)))
        return
    found = audit_round(corpus.store, ref, stored, auditor=auditor, hotkey=hotkey)
    report.add(found)
    _check_tasks(found, ref.commit_key, seen, report)


def _check_tasks(found: AuditFindings, where: str, seen: dict[str, str], report: AuditReport) -> None:
    """Report tasks that occur in two places. A task belongs to one round, so that round is in the corpus twice."""
    for task_id in found.tasks:
        if (first := seen.setdefault(task_id, where)) != where:
            report.faults.append(Fault(where, f"task {task_id} is in {first} too: its records are in the corpus twice"))


def _manifests(corpus: Corpus, report: AuditReport) -> list[Manifest]:
    """Return the manifests that can be read. The others are reported as faults."""
    found = []
    for name in corpus.store.folders(keys.SEALED):
        day = keys.folder_day(name)
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


def _check_chain(corpus: Corpus, manifests: Sequence[Manifest], report: AuditReport) -> None:
    """Check that the seal log and the manifests agree, and that each entry names the one before it."""
    try:
        sealed = corpus.seal_log()
    except (CorpusError, ObjectCorrupt) as error:
        report.faults.append(Fault(keys.LOG, str(error)))
        return
    there = {manifest.day: manifest for manifest in manifests}
    broken = {fault.where for fault in report.faults}
    claims: dict[str, date] = {}
    previous = None
    for place, entry in enumerate(sealed):
        where, key = keys.log_key(place), keys.manifest_key(entry.day)
        if entry.sequence != place or entry.previous != previous:
            report.faults.append(Fault(where, "it does not name the day that was sealed before it"))
        previous = entry.sha256
        manifest = there.pop(entry.day, None)
        if manifest is None and key not in broken and (place < len(sealed) - 1 or not _still_live(corpus, entry)):
            report.faults.append(Fault(key, f"{entry.day} was sealed, but its manifest is missing"))
        if manifest is not None and manifest.to_json() != entry.to_json():
            report.faults.append(Fault(key, f"it differs from {where}"))
        for claim in entry.rounds:
            if (first := claims.setdefault(claim.round_id, entry.day)) != entry.day:
                report.faults.append(Fault(key, f"round {claim.round_id} was sealed in {first} too"))
    for day in there:
        report.faults.append(Fault(keys.manifest_key(day), "the seal log has no entry of this day"))


def _still_live(corpus: Corpus, manifest: Manifest) -> bool:
    """Return whether all rounds of a logged day exist. If its sealer died before the manifest, the next writes it."""
    commits = (keys.commit_key(claim.date, claim.round_id) for claim in manifest.rounds)
    return all(corpus.store.head(key) is not None for key in commits)


def audit_store(
    settings: Settings, *, day: date | None = None, sample: float = 1.0, deep: bool = True, hotkey: str | None = None
) -> AuditReport:
    """Audit the configured corpus, as `audit`. `deep` verifies the images that are read again in this process.

    Raises StoreError when the store cannot be read, ModelError where `deep` needs a classifier that cannot be loaded.
    """
    reverify = local_reverifier(settings) if deep else None
    return audit(Corpus.open(settings), day=day, sample=sample, reverify=reverify, hotkey=hotkey)
