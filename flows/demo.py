"""The demonstration: every station of the line once, on real parts, in one process."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from perturb.flows.export import export
from perturb.flows.produce import ProduceSummary, produce
from perturb.flows.seal import seal
from perturb.models.classifier import load_classifier
from perturb.schemas.errors import AuditError
from perturb.schemas.settings import load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.contact_sheet import check_picture, contact_sheet
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.seal_and_anchor import SealSummary
from perturb.tasks.export.readback import ReadBack, read_back
from perturb.tasks.monitor.best_pairs import best_pairs
from perturb.tasks.tiers.tier_file import load_tiers
from perturb.tasks.verify.reverify import reverify_pairs

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
    """What the demo left behind."""

    produced: ProduceSummary
    sealed: SealSummary
    exports: tuple[Exported, ...]
    audited_records: int
    picture: Path


def run_demo(
    *, rounds: int, store: str | None, source: str | None, picture: Path, tell: Callable[[Any], None]
) -> DemoSummary:
    """Produces `rounds` rounds, seals their day early, exports two tiers, loads them back, audits, draws `picture`.

    `tell` is given a line for people before each station. Raises AuditError when the corpus or what was read back does
    not hold, SettingsError where there is no tier file or the picture can't be written: both would be found out late.
    """
    check_picture(picture)
    settings = load_settings(store=store, source=source)
    load_tiers(settings.tiers)
    corpus = Corpus.open(settings)
    tell(f"[bold]1/6 produce[/] {rounds} challenges to {LOCAL_MINERS} local miners, the last of which misbehaves")
    tell("    the models load and the miners start first; nothing is to be seen of it for up to a minute")
    produced = produce(rounds=rounds, local_miners=LOCAL_MINERS, store=store, source=source)
    if produced.stopped:
        raise KeyboardInterrupt
    day = corpus.open_day(datetime.now(UTC))
    tell(f"[bold]2/6 seal[/] {day}, though it is not over: later rounds go to the next day")
    sealed = seal(day=day, store=store, early=True)
    tell(f"[bold]3/6 export[/] the tiers {' and '.join(TIERS)}")
    results = export(tiers=list(TIERS), store=store)
    tell("[bold]4/6 read back[/] with datasets (streaming and not) and webdataset, as a subscriber would")
    classifier = load_classifier(settings.classifier)
    exports = tuple(
        Exported(
            tier=result.tier,
            records=result.records,
            bytes=result.bytes,
            path=result.path,
            read_back=read_back(result.path, classifier=classifier, s3=settings.s3),
        )
        for result in results
    )
    for exported in exports:
        if not exported.read_back.holds:
            raise AuditError(f"what was read back from {exported.path} is not what was exported: {exported.read_back}")
    tell("[bold]5/6 audit[/] every record of the corpus, from its bytes alone")
    report = audit(corpus, reverify=partial(reverify_pairs, classifier=classifier, settings=settings))
    if not report.holds:
        raise AuditError(f"the corpus in {settings.store} has {len(report.faults)} faults; `perturb audit` names them")
    tell(f"[bold]6/6 draw[/] {picture}")
    contact_sheet(best_pairs(corpus, PICTURE_PAIRS, day=sealed.day)).save(picture)
    return DemoSummary(
        produced=produced, sealed=sealed, exports=exports, audited_records=report.records, picture=picture
    )
