"""The `audit` flow: every week a sample of the corpus is verified again from its bytes."""

from datetime import date

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.schemas.settings import load_settings
from perturb.tasks.corpus.audit import AuditFailed, AuditReport, audit_store


@task(name="audit corpus")
def _audit(store: str | None, day: date | None, sample: float, deep: bool, hotkey: str | None) -> AuditReport:
    report = audit_store(load_settings(store=store), day=day, sample=sample, deep=deep, hotkey=hotkey)
    if not report.holds:
        show_table("audit-faults", [{"where": fault.where, "what": fault.what} for fault in report.faults], "faults")
        raise AuditFailed(report)
    return report


@flow(name="audit")
def audit(
    store: str | None = None,
    sample: float = 1.0,
    deep: bool = True,
    day: date | None = None,
    hotkey: str | None = None,
) -> AuditReport:
    """Check digests, counts, pointers and signatures of everything, and the images of a `sample` from their bytes.

    The run fails with AuditFailed where a fault was found.
    """
    return _audit(store, day, sample, deep, hotkey)
