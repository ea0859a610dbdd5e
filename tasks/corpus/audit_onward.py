"""The audit that goes on where this machine's last one ended: what runs every week.

How far the last audit came is kept in a file below the cache folder and not in the store, where whoever writes to the
store could move it.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log.log import LOG, Log
from perturb.sinks.report.replace_file import replace_file
from perturb.subnet.trust import load_trust
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.audit_report import AuditReport
from perturb.tasks.corpus.audit_rows import Fault
from perturb.tasks.corpus.local_reverifier import local_reverifier

log = logging.getLogger(__name__)


class AuditProgress(BaseModel):
    """How far audits without a fault came: to the first `entries` entries of the log, whose root is `root` (hex)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: int = Field(gt=0)
    root: str = Field(pattern=r"^[0-9a-f]{64}$")


def progress_file(settings: Settings, trust: Trust, *, sample: float, deep: bool) -> Path:
    """Return the file with the progress of audits of this store that trust these validators and look so closely."""
    named = [settings.store, sorted(trust.hotkeys or ()), trust.allow_unsigned, sample, deep]
    return settings.cache / "audits" / f"{hashlib.sha256(canonical_json(named)).hexdigest()[:32]}.json"


def audit_onward(
    settings: Settings, *, whole: bool = False, sample: float = 1.0, deep: bool = True, hotkeys: Sequence[str] = ()
) -> AuditReport:
    """Audit the configured corpus from the entry of the log on at which this machine's last such audit ended.

    `sample`, `deep` and `hotkeys` are those of `audit_store`. Only an audit of the same store with the same values
    counts as the last. The audit is whole with `whole`, where the file of the last one is missing or cannot be read,
    and where the log no longer begins as it did then, which is a fault. An audit without a fault replaces the file.

    Raises as `audit_store`, and StoreError when the file cannot be written.
    """
    trust = load_trust(settings.subnet, hotkeys=hotkeys)
    corpus, path = Corpus.open(settings), progress_file(settings, trust, sample=sample, deep=deep)
    last = None if whole else _read(path)
    changed = None if last is None else _changed(Log(corpus.store, trust=trust), last, path)
    report = audit(
        corpus,
        since_entry=None if last is None or changed else last.entries,
        sample=sample,
        reverify=local_reverifier(settings) if deep else None,
        trust=trust,
    )
    if changed:
        report.faults.insert(0, Fault(LOG, changed))
    if report.holds and report.reached and report.root:
        progress = AuditProgress(entries=report.reached, root=report.root)
        replace_file(path, canonical_json(progress.model_dump()) + b"\n", mode=0o600)
    return report


def _read(path: Path) -> AuditProgress | None:
    try:
        return AuditProgress.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s cannot be read, so that the whole corpus is audited: %s", path, error)
        return None


def _changed(entries: Log, last: AuditProgress, path: Path) -> str | None:
    """Return a sentence where the log does not begin with the entries that were audited, otherwise None."""
    try:
        found = entries.record(last.entries - 1).head.root
    except CorpusError as error:
        found = str(error)
    if found == last.root:
        return None
    return (
        f"its first {last.entries} entries had the root {last.root} when they were audited, now: {found}; it was cut "
        f"or rewritten since; restore it from a copy, or delete {path} if another corpus is meant to be there"
    )
