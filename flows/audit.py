"""The `audit` flow: every week what is new in the corpus is verified from its bytes, a sample of the images too."""

from datetime import date

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.schemas.settings import load_settings
from perturb.tasks.corpus.audit import audit_store
from perturb.tasks.corpus.audit_onward import audit_onward
from perturb.tasks.corpus.audit_report import AuditFailed, AuditReport


@task(name="audit corpus")
def _audit(
    store: str | None,
    whole: bool,
    day: date | None,
    since: date | None,
    since_entry: int | None,
    sample: float,
    deep: bool,
    hotkeys: list[str],
) -> AuditReport:
    settings = load_settings(store=store)
    if day is None and since is None and since_entry is None:
        report = audit_onward(settings, whole=whole, sample=sample, deep=deep, hotkeys=hotkeys)
    else:
        report = audit_store(
            settings, day=day, since=since, since_entry=since_entry, sample=sample, deep=deep, hotkeys=hotkeys
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
    whole: bool = False,
    day: date | None = None,
    since: date | None = None,
    since_entry: int | None = None,
    hotkeys: list[str] | None = None,
) -> AuditReport:
    """Check digests, counts, pointers and signatures, and the images of a `sample` from their bytes.

    It goes on where this machine's last audit without a fault ended (`audit_onward`), or reads the `whole` corpus, or
    what `day`, `since` or `since_entry` name. Everything must be signed by one of `hotkeys` or, without any, by the own
    hotkey or a trusted validator of the settings. The run fails with AuditFailed where a fault was found.
    """
    return _audit(store, whole, day, since, since_entry, sample, deep, hotkeys or [])
