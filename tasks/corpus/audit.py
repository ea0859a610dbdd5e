"""The audit: whether everything in a corpus is what was committed, from its bytes alone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date

from perturb.schemas.errors import AuditError, CorpusError
from perturb.schemas.pair import Reverify
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.tasks.corpus.audit_images import Glass
from perturb.tasks.corpus.audit_rows import Examination, Fault, examine_day, examine_round
from perturb.tasks.corpus.local_reverifier import local_reverifier

log = logging.getLogger(__name__)


@dataclass
class AuditReport:
    """What was looked at and what is wrong with it. `unsigned` counts rounds and days without a signature."""

    days: int = 0
    rounds: int = 0
    records: int = 0
    images: int = 0
    reverified: int = 0
    unsigned: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    def add(self, found: Examination) -> None:
        """Count one round or day in."""
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
            "`perturb audit` names all"
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
    progress: Callable[[str], None] = lambda _: None,
) -> AuditReport:
    """Audit sealed days and live rounds, or those of one `day`.

    Digests, counts, pointers, Merkle roots and signatures are always checked in full; `sample` is the share of
    images whose bytes are read (1 also checks the shards' own digests). `reverify` (the deep audit) runs metrics and
    flip again on the images that were read. With `hotkey`, everything must be signed by that validator. `progress`
    is told the name of each part before it is looked at.

    Never raises for what it finds in the corpus; StoreError when the store cannot be read.
    """
    report = AuditReport()
    glass = Glass(sample=sample, reverify=reverify)
    manifests = _manifests(corpus, report)
    _check_chain(corpus, manifests, report)
    seen: dict[str, str] = {}
    for manifest in manifests:
        if day is None or manifest.day == day:
            where = keys.manifest_key(manifest.day)
            progress(where)
            found = examine_day(corpus.store, manifest, where, glass=glass, hotkey=hotkey)
            report.days += 1
            report.add(found)
            _check_tasks(found, where, seen, report)
    for ref in corpus.live_rounds(manifests=manifests):
        if day is None or ref.day == day:
            progress(ref.commit_key)
            report.rounds += 1
            _audit_round(corpus, ref, report, seen, glass=glass, hotkey=hotkey)
    if day is not None and not report.days and not report.rounds:
        raise CorpusError(f"there is nothing to audit for {day}; `perturb status` lists the days of a corpus")
    return report


def _audit_round(
    corpus: Corpus,
    ref: RoundRef,
    report: AuditReport,
    seen: dict[str, str],
    *,
    glass: Glass,
    hotkey: str | None,
) -> None:
    try:
        stored = corpus.read_round(ref)
    except (CorpusError, ObjectMissing, ObjectCorrupt) as error:
        report.faults.append(Fault(ref.commit_key, str(error)))
        return
    found = examine_round(corpus.store, ref, stored, glass=glass, hotkey=hotkey)
    report.add(found)
    _check_tasks(found, ref.commit_key, seen, report)


def _check_tasks(found: Examination, where: str, seen: dict[str, str], report: AuditReport) -> None:
    """A task belongs to one round, so a task met again elsewhere is a round that is in the corpus twice."""
    for task_id in found.tasks:
        if (first := seen.setdefault(task_id, where)) != where:
            report.faults.append(Fault(where, f"task {task_id} stands in {first} too: its records are double"))


def _manifests(corpus: Corpus, report: AuditReport) -> list[Manifest]:
    """The manifests that can be read; the others are faults."""
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
    """The seal log and the manifests must tell the same story, each entry naming the one before it."""
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
            report.faults.append(Fault(where, "it does not name the sealed day before it"))
        previous = entry.sha256
        manifest = there.pop(entry.day, None)
        if manifest is None and key not in broken and (place < len(sealed) - 1 or not _still_live(corpus, entry)):
            report.faults.append(Fault(key, f"{entry.day} was sealed, but its manifest is gone"))
        if manifest is not None and manifest.to_json() != entry.to_json():
            report.faults.append(Fault(key, f"it differs from {where}"))
        for claim in entry.rounds:
            if (first := claims.setdefault(claim.round_id, entry.day)) != entry.day:
                report.faults.append(Fault(key, f"round {claim.round_id} was sealed in {first} too"))
    for day in there:
        report.faults.append(Fault(keys.manifest_key(day), "the seal log does not know this day"))


def _still_live(corpus: Corpus, manifest: Manifest) -> bool:
    """Whether a day whose sealer died before the manifest still has all its rounds (the next seal finishes it)."""
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
