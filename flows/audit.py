"""The `audit` flow: every week a sample of the corpus is verified again from its bytes."""

from datetime import date

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.schemas.settings import load_settings
from perturb.tasks.corpus.audit import AuditFailed, AuditReport, audit_store


@task(name="audit corpus")
def _audit(
    store: str | None,
    day: date | None,
    since: date | None,
    since_entry: int | None,
    sample: float,
    deep: bool,
    hotkeys: list[str],
) -> AuditReport:
    report = audit_store(
        load_settings(store=store),
        day=day,
        since=since,
        since_entry=since_entry,
        sample=sample,
        deep=deep,
        hotkeys=hotkeys,
    )
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
    since: date | None = None,
    since_entry: int | None = None,
    hotkeys: list[str] | None = None,
) -> AuditReport:
    """Check digests, counts, pointers and signatures of everything, and the images of a `sample` from their bytes.

    Everything must be signed by one of `hotkeys` or, without any, by the own hotkey or a trusted validator of the
    settings. The run fails with AuditFailed where a fault was found.
    """
    return _audit(store, day, since, since_entry, sample, deep, hotkeys or [])
