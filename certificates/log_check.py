"""A certificate in the log: that its plan came first, and what happened to it since."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from perturb.certificates import beacon as drand
from perturb.certificates.folder import CERTIFICATE, CertificateFolder
from perturb.certificates.plan import Plan
from perturb.certificates.statement import digest_of
from perturb.sinks.log.entry import LogRecord
from perturb.sinks.log.log import Log


def key_of(certificate_id: str, name: str) -> str:
    """Return the key of a certificate's file in a store."""
    return f"certificates/{certificate_id}/{name}"


@dataclass
class LogFindings:
    """What the log says: faults, the entries about this certificate, and the signer's plans without a certificate."""

    faults: list[str] = field(default_factory=list)
    newest: LogRecord | None = None
    refutation: LogRecord | None = None
    revocation: LogRecord | None = None
    superseded_by: LogRecord | None = None
    certificate: LogRecord | None = None
    plans: int = 0
    certificates: int = 0
    abandoned: int = 0
    roots: dict[str, int] = field(default_factory=dict)

    def status(self, validity: str) -> str:
        """Return the certificate's status as of the newest entry; `validity` is `valid` or `expired`."""
        if self.faults:
            return "unknown"
        as_of = f", as of log entry {self.newest.entry.sequence}" if self.newest else ""
        if self.revocation:
            return f"revoked: {self.revocation.entry.detail.get('reason', '')}{as_of}"
        if self.refutation:
            detail = self.refutation.entry.detail
            return f"refuted at level {detail.get('level')} by {detail.get('record_id')}{as_of}"
        if self.superseded_by:
            return f"superseded by {self.superseded_by.entry.detail.get('id')}{as_of}"
        return f"{validity}{as_of}"

    def compare_with_chain(self, root: str | None) -> None:
        """Note a fault unless `root`, which the validator committed on chain, is a head that covers the certificate."""
        size = self.roots.get(root or "")
        if root is None:
            self.faults.append("the validator has committed no root on the chain")
        elif size is None:
            self.faults.append("the root on the chain is none of this log's")
        elif self.certificate is not None and size <= self.certificate.entry.sequence:
            self.faults.append("the root on the chain is older than the certificate")


def check_log(log: Log, plan: Plan, statement_sha256: str, folder: CertificateFolder) -> LogFindings:
    """Read the log and return what it says of this certificate. Raises CorpusError for a log that does not hold."""
    found = LogFindings()
    planned: LogRecord | None = None
    mine: set[str] = set()
    done: set[str] = set()
    expired: set[str] = set()
    now = datetime.now(UTC)
    for record in log.records():
        entry = record.entry
        found.newest = record
        found.roots[record.head.root] = record.head.size
        identity = str(entry.detail.get("id", ""))
        if entry.kind == "plan" and entry.signer == plan.signer:
            mine.add(identity)
            if str(entry.detail.get("run_before", "9")) < now.strftime("%Y-%m-%dT%H:%M:%SZ"):
                expired.add(identity)
        if entry.kind == "certificate" and entry.signer == plan.signer:
            done.add(identity)
        if entry.kind == "plan" and entry.key == key_of(plan.id, "plan.json"):
            planned = record
        if entry.key == key_of(plan.id, CERTIFICATE) and entry.kind == "certificate":
            found.certificate = found.certificate or record
        _note_later(found, record, plan, statement_sha256)
    found.plans, found.certificates, found.abandoned = len(mine), len(done), len((mine & expired) - done)
    found.faults += _order_faults(plan, planned, found.certificate, statement_sha256, folder)
    return found


def _note_later(found: LogFindings, record: LogRecord, plan: Plan, statement_sha256: str) -> None:
    entry = record.entry
    about = entry.detail.get("statement") == statement_sha256
    # Its signer may revoke a certificate. Anybody whose log is trusted may refute it: the record is checked with it.
    if about and entry.kind == "revocation" and entry.signer == plan.signer:
        found.revocation = found.revocation or record
    if about and entry.kind == "refutation":
        found.refutation = found.refutation or record
    same_subject = entry.detail.get("subject") == plan.subject.sha256
    is_later = found.certificate is not None and entry.sequence > found.certificate.entry.sequence
    if entry.kind == "certificate" and is_later and same_subject and entry.signer == plan.signer:
        found.superseded_by = record


def _order_faults(
    plan: Plan,
    planned: LogRecord | None,
    certified: LogRecord | None,
    statement_sha256: str,
    folder: CertificateFolder,
) -> list[str]:
    if planned is None:
        return ["the plan is not in the log, so it may have been made after the measurement"]
    faults = []
    if planned.entry.sha256 != digest_of(folder.read("plan.json")):
        faults.append("the plan in the log is another one than plan.json")
    if plan.beacon.kind != "none" and planned.entry.at > drand.time_of(plan.beacon.round or 1):
        faults.append(
            f"the plan was logged at {planned.entry.at}, after round {plan.beacon.round} of the beacon was known"
        )
    if certified is None:
        faults.append("the certificate is not in the log")
    elif certified.entry.detail.get("statement") != statement_sha256:
        faults.append("the certificate in the log is another one")
    elif certified.entry.sequence < planned.entry.sequence:
        faults.append("the certificate stands before its plan in the log")
    return faults
