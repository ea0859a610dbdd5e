"""The demonstration: every stage once, on real parts, in one process."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel
from rich.markup import escape

from perturb.flows.engine.prefect_server import ServerStart
from perturb.flows.produce import ProduceSummary, prepared_produce
from perturb.models.classifier import load_classifier
from perturb.schemas.errors import AuditError
from perturb.schemas.settings import Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.contact_sheet import check_picture, contact_sheet
from perturb.tasks.corpus.audit import audit_store
from perturb.tasks.corpus.seal_and_anchor import SealSummary, seal_and_anchor
from perturb.tasks.export.export import ExportResult
from perturb.tasks.export.export_tiers import export_tiers
from perturb.tasks.export.readback import ReadBack, read_back
from perturb.tasks.monitor.best_pairs import best_pairs
from perturb.tasks.tiers.tier_file import get_tier, load_tiers

TIERS = ("sample", "research")
LOCAL_MINERS = 5
PICTURE_PAIRS = 4


class Exported(BaseModel):
    """One tier's dataset after the demo, and what its consumers read from it."""

    tier: str
    records: int
    bytes: int
    path: str
    read_back: ReadBack


class DemoSummary(BaseModel):
    """What the demo produced."""

    produced: ProduceSummary
    sealed: SealSummary
    exports: tuple[Exported, ...]
    audited_records: int
    picture: Path


def run_demo(
    server: ServerStart,
    *,
    rounds: int,
    store: str | None,
    source: str | None,
    picture: Path,
    tell: Callable[[str], None],
) -> DemoSummary:
    """Produce `rounds` rounds, seal their day early, export two tiers, load them back, audit, draw `picture`.

    Rounds are produced by the `produce` flow on `server`, which may still be starting; the other steps run without
    Prefect. `tell` receives a line of rich markup before each step. Raises AuditError when the corpus or what was read
    back is inconsistent. Raises SettingsError where the picture cannot be written, and TierError where the tier file is
    missing or lacks one of `TIERS`, both before anything is produced.
    """
    check_picture(picture)
    settings = load_settings(store=store, source=source)
    known = load_tiers(settings.tiers)
    for name in TIERS:
        get_tier(known, name)
    corpus = Corpus.open(settings)
    tell(f"[bold]1/6 produce[/] {rounds} challenges to {LOCAL_MINERS} local miners, the last of which misbehaves")
    with prepared_produce(server, local_miners=LOCAL_MINERS, store=store, source=source) as produce:
        produced = produce(rounds=rounds)
    if produced.stopped:
        raise KeyboardInterrupt
    day = corpus.open_day(datetime.now(UTC))
    tell(f"[bold]2/6 seal[/] {day}, though it is not over: later rounds go to the next day")
    sealed = seal_and_anchor(settings, day=day, early=True)
    tell(f"[bold]3/6 export[/] the tiers {' and '.join(TIERS)}")
    results = export_tiers(settings, TIERS)
    tell("[bold]4/6 read back[/] with datasets (streaming and not) and webdataset, as a subscriber would")
    exports = tuple(_read_back(result, settings) for result in results)
    tell("[bold]5/6 audit[/] every record of the corpus, from its bytes alone")
    report = audit_store(settings)
    if not report.holds:
        raise AuditError(f"the corpus in {settings.store} has {len(report.faults)} faults; `perturb audit` names them")
    tell(f"[bold]6/6 draw[/] {escape(str(picture))}")
    contact_sheet(best_pairs(corpus, PICTURE_PAIRS, day=sealed.day)).save(picture)
    return DemoSummary(
        produced=produced, sealed=sealed, exports=exports, audited_records=report.records, picture=picture
    )


def _read_back(result: ExportResult, settings: Settings) -> Exported:
    found = read_back(result.path, classifier=load_classifier(settings.classifier), s3=settings.s3)
    if not found.holds:
        raise AuditError(f"what was read back from {result.path} is not what was exported: {found}")
    return Exported(tier=result.tier, records=result.records, bytes=result.bytes, path=result.path, read_back=found)
