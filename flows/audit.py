"""The `audit` flow: a sample of the corpus is proved again from its bytes, week after week."""

from functools import partial

from prefect import flow, task
from pydantic import BaseModel

from perturb.flows.engine.artifacts import show_table
from perturb.models.classifier import load_classifier
from perturb.schemas.errors import AuditError
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.corpus.audit import audit as audit_corpus
from perturb.tasks.verify.reverify import reverify_pairs


class AuditSummary(BaseModel):
    """What was looked at; an audit with faults raises instead."""

    days: int
    rounds: int
    records: int
    images: int
    reverified: int
    unsigned: int


@task(name="audit corpus")
def _audit(store: str | None, sample: float, deep: bool) -> AuditSummary:
    settings = load_settings(store=store)
    classifier = load_classifier(settings.classifier) if deep else None
    reverify = partial(reverify_pairs, classifier=classifier, settings=settings) if classifier else None
    report = audit_corpus(Corpus.open(settings), sample=sample, reverify=reverify)
    if not report.holds:
        show_table("audit-faults", [{"where": fault.where, "what": fault.what} for fault in report.faults], "faults")
        first = report.faults[0]
        raise AuditError(f"{len(report.faults)} faults, the first in {first.where}: {first.what}; run `perturb audit`")
    return AuditSummary.model_validate(report, from_attributes=True)


@flow(name="audit")
def audit(store: str | None = None, sample: float = 1.0, deep: bool = True) -> AuditSummary:
    """Checks digests, counts, pointers and signatures of everything, and the images of a `sample` from their bytes."""
    return _audit(store, sample, deep)
