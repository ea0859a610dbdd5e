"""The demonstration: every stage once, on real parts, in one process."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from rich.markup import escape

from perturb.certificates.compare import compare, page_beside, read_side
from perturb.certificates.entries import open_log
from perturb.certificates.places import TARGET, open_subject
from perturb.certificates.planning import PlanRequest, plan_certificate
from perturb.certificates.run import run_certificate
from perturb.certificates.verify import Request, trusts, verify
from perturb.flows.engine.prefect_server import ServerStart
from perturb.flows.produce import ProduceSummary, prepared_produce
from perturb.models.classifier import load_classifier
from perturb.schemas.errors import AuditError
from perturb.schemas.settings import Settings, load_settings
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.contact_sheet import check_picture, write_contact_sheet
from perturb.sinks.report.replace_file import replace_file
from perturb.tasks.corpus.audit import audit_store
from perturb.tasks.corpus.seal_and_anchor import SealSummary, seal_and_anchor
from perturb.tasks.export.export import ExportResult
from perturb.tasks.export.export_tiers import export_tiers
from perturb.tasks.export.operator_state import pseudonym_key
from perturb.tasks.export.readback import ReadBack, read_back
from perturb.tasks.harden.harden import HardenSummary, harden
from perturb.tasks.harden.network import can_be_hardened
from perturb.tasks.harden.pairs import TooFewPhotographs
from perturb.tasks.monitor.best_pairs import best_pairs
from perturb.tasks.tiers.identifiers import Identifiers, pair_id
from perturb.tasks.tiers.tier_file import get_tier, load_tiers

TIERS = ("sample", "research")
LOCAL_MINERS = 5
PICTURE_PAIRS = 4
CERTIFIED_POOL = "sample:24"
MOST_CERTIFIED = 12
# A handful of photographs shows the step. What it teaches can't be told from chance, and the verdict says so.
FEWEST_TO_HARDEN = 3
HARDEN_MINUTES = 0.02


class Exported(BaseModel):
    """One tier's dataset after the demo, and what its consumers read from it."""

    tier: str
    records: int
    bytes: int
    path: str
    read_back: ReadBack


class Certified(BaseModel):
    """The certificates of the classifier and of the hardened network, their comparison, and the page of both."""

    page: Path
    certificate: Path
    hardened: Path | None
    comparison: dict[str, Any] | None


class DemoSummary(BaseModel):
    """What the demo produced."""

    produced: ProduceSummary
    sealed: SealSummary
    exports: tuple[Exported, ...]
    audited_records: int
    picture: Path
    hardened: HardenSummary | None
    certified: Certified | None


def run_demo(
    server: ServerStart,
    *,
    rounds: int,
    store: str | None,
    source: str | None,
    picture: Path,
    tell: Callable[[str], None],
) -> DemoSummary:
    """Produce `rounds` rounds, seal their day early, export two tiers, load them back, audit, draw `picture`,
    harden, certify both networks.

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
    tell(f"[bold]1/8 produce[/] {rounds} challenges to {LOCAL_MINERS} local miners, the last of which misbehaves")
    with prepared_produce(server, local_miners=LOCAL_MINERS, store=store, source=source) as produce:
        produced = produce(rounds=rounds)
    if produced.stopped:
        raise KeyboardInterrupt
    day = corpus.open_day(datetime.now(UTC))
    tell(f"[bold]2/8 seal[/] {day}, though it is not over: later rounds go to the next day")
    sealed = seal_and_anchor(settings, day=day, early=True)
    tell(f"[bold]3/8 export[/] the tiers {' and '.join(TIERS)}")
    results = export_tiers(settings, TIERS)
    tell("[bold]4/8 read back[/] with datasets (streaming and not) and webdataset, as a subscriber would")
    exports = tuple(_read_back(result, known[result.tier], corpus, settings) for result in results)
    tell("[bold]5/8 audit[/] every record of the corpus, from its bytes alone")
    report = audit_store(settings)
    if not report.holds:
        raise AuditError(f"the corpus in {settings.store} has {len(report.faults)} faults; `perturb audit` names them")
    tell(f"[bold]6/8 draw[/] {escape(str(picture))}")
    write_contact_sheet(picture, best_pairs(corpus, PICTURE_PAIRS, day=sealed.day))
    hardened = _harden(settings, sealed.day, tell)
    certified = _certify(settings, hardened, min(rounds, MOST_CERTIFIED), picture.parent, tell)
    return DemoSummary(
        produced=produced,
        sealed=sealed,
        exports=exports,
        audited_records=report.records,
        picture=picture,
        hardened=hardened,
        certified=certified,
    )


def _certify(
    settings: Settings, hardened: HardenSummary | None, images: int, folder: Path, tell: Callable[[str], None]
) -> Certified | None:
    """Certify the classifier and the hardened network on the same crops of the sample photographs, and verify both.

    The page is the classifier's, with the comparison in it. The hardened one is certified whatever its gates said.
    """
    if settings.judge.name == "none":
        tell("[bold]8/8 certify[/] is left out: without a judge the sample photographs have no labels")
        return None
    name = settings.classifier.name
    beside = f" and {hardened.target}" if hardened else ""
    tell(f"[bold]8/8 certify[/] {escape(name + beside)} on {images} sample photographs, and verify")
    request = PlanRequest(name, CERTIFIED_POOL, images, claims=("robust@1>=0.30",))
    if settings.classifier.weights.kind == "file":
        request = replace(request, subject=f"{name}={settings.classifier.weights.path}")
    first = _certified(settings, request, folder / "certificates")
    second = found = None
    if hardened:
        other = replace(request, subject=f"{TARGET}{hardened.target}", like=first.parent)
        second = _certified(settings, other, folder / "certificates")
        found = compare(read_side(first), read_side(second))
    page = folder / "certificate.html"
    replace_file(page, page_beside(first, found))
    return Certified(page=page, certificate=first, hardened=second, comparison=found)


def _certified(settings: Settings, request: PlanRequest, folder: Path) -> Path:
    planned = plan_certificate(settings, request, folder=folder, log=True)
    made = run_certificate(settings, planned.folder, workers=2, log=True)
    assert made.certificate is not None
    subject = open_subject(request.subject, settings)
    now = datetime.now(UTC)
    found = verify(Request(made.certificate, None, trusts([]), now, lambda _: subject, log=open_log(settings)))
    if not found.holds:
        raise AuditError(f"the certificate {made.certificate} does not hold; `perturb certificate verify` says why")
    return made.certificate


def _harden(settings: Settings, day: date, tell: Callable[[str], None]) -> HardenSummary | None:
    """Harden the classifier on the day's few photographs, and measure it; None where it can't be."""
    name = escape(settings.classifier.name)
    if not can_be_hardened(load_classifier(settings.classifier)):
        tell(f"[bold]7/8 harden[/] is left out: {name} is not one of the networks that can be hardened")
        return None
    tell(f"[bold]7/8 harden[/] {name} on what the miners found, beside a control arm, and measure both")
    threads = torch.get_num_threads()
    # Threads that wait for one another take many times as long where another program has a core.
    torch.set_num_threads(1)
    try:
        return harden(
            settings,
            days=[day],
            minutes=HARDEN_MINUTES,
            fewest=FEWEST_TO_HARDEN,
            attacked=1,
            tell=lambda text: tell(escape(text)),
        )
    except TooFewPhotographs as error:
        tell(f"hardening is left out: {escape(str(error))}")
        return None
    finally:
        torch.set_num_threads(threads)


def _read_back(result: ExportResult, tier: Tier, corpus: Corpus, settings: Settings) -> Exported:
    ids = Identifiers(tier, pseudonym_key(corpus.store, settings.pseudonym_key))
    found = read_back(
        result.path,
        classifier=load_classifier(settings.classifier),
        identify=lambda original, perturbed: ids.sample(pair_id(original, perturbed)),
        s3=settings.s3,
    )
    if not found.holds:
        raise AuditError(f"what was read back from {result.path} is not what was exported: {found}")
    return Exported(tier=result.tier, records=result.records, bytes=result.bytes, path=result.path, read_back=found)
