"""The steps of a certification as commands and flows call them: plan, run, and their entries in the log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perturb.certificates.envelope import STATEMENT_TYPE, open_envelope
from perturb.certificates.folder import CERTIFICATE, PAGE, CertificateFolder, LocalPlaces
from perturb.certificates.log_check import key_of
from perturb.certificates.places import open_subject
from perturb.certificates.plan import Plan, check_terms, make_plan, open_plan, read_harm, sign_plan
from perturb.certificates.pool import Pool, read_pool, read_pool_like
from perturb.certificates.run import RunSummary, run_plan
from perturb.certificates.statement import digest_of
from perturb.certificates.subject import Subject
from perturb.certificates.tables import POOL, read_table, write_table
from perturb.models.judge.judge import judge_for, load_judge
from perturb.schemas.errors import CorpusError, SettingsError
from perturb.schemas.settings import Settings
from perturb.sinks.log.entry import LogRecord, NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, companion_keypair, load_keypair
from perturb.subnet.trust import load_trust

Tell = Callable[[str], None]


@dataclass(frozen=True)
class PlanRequest:
    """What a person asks of a plan: specs of subject and pool, and "none" or where the beacon's round comes from.

    `like` is the folder of another plan: its pool, labels and sample are taken, and `pool` is not read.
    """

    subject: str
    pool: str
    n: int
    levels: tuple[int, ...] = (1, 2, 4, 8)
    suite: str = "quick"
    claims: tuple[str, ...] = ()
    beacon: str = "none"
    like: Path | None = None
    classes: Path | None = None
    crowd: str | None = None
    harm: Path | None = None
    alpha: str = "0.05"
    valid_days: int = 365
    provider: str | None = None
    responsible: str | None = None
    purpose: str | None = None


@dataclass(frozen=True)
class Planned:
    """A plan that was written: its folder, and its place in the log, None where it was not logged."""

    plan: Plan
    folder: Path
    entry: int | None


def plan_certificate(
    settings: Settings,
    request: PlanRequest,
    *,
    folder: Path,
    log: bool,
    now: datetime | None = None,
    tell: Tell = lambda _: None,
) -> Planned:
    """Write a signed plan into a new folder below `folder`, and enter it in the log of the configured store.

    On a chain the log's head is committed there. Raises what `load_subject`, `read_pool` and `make_plan` raise.
    """
    # Before anything is loaded.
    check_terms(request.levels, request.suite, request.claims)
    if request.beacon == "chain" and settings.subnet.network == LOCAL_NETWORK:
        raise SettingsError(
            "--beacon chain: subnet.network is local, which has no chain; accepted there: none, a JSON file of the "
            "round, or a drand HTTP relay"
        )
    tell(f"loading {request.subject}")
    subject = open_subject(request.subject, settings, classes=request.classes)
    harm = read_harm(request.harm) if request.harm else ()
    source, pool, drawn_as = _pool(settings, request, subject, tell)
    hotkey = load_keypair(settings.subnet)
    companion = companion_keypair(settings.subnet, hotkey.ss58_address)
    plan = make_plan(
        subject,
        pool,
        n=min(request.n, len(pool.rows)),
        levels=request.levels,
        suite=request.suite,
        claims=request.claims,
        signer=hotkey.ss58_address,
        companion=companion.public_key.hex(),
        now=now or datetime.now(UTC),
        with_beacon=request.beacon != "none",
        drawn_as=drawn_as,
        crowd=request.crowd is not None,
        alpha=request.alpha,
        valid_days=request.valid_days,
        harm=harm,
        block=_block(settings),
        provider=request.provider,
        responsible=request.responsible,
        purpose=request.purpose,
    )
    made = CertificateFolder(folder / plan.id)
    made.write("pool.parquet", write_table(pool.rows, POOL))
    made.keep_places(
        LocalPlaces(
            subject=request.subject,
            pool=source,
            classes=str(request.classes) if request.classes else None,
            crowd=request.crowd,
            beacon=request.beacon,
        )
    )
    made.write("plan.json", sign_plan(plan, hotkey=hotkey, companion=companion))
    entry = enter_plan(settings, made) if log else None
    return Planned(plan, made.path, entry)


def _pool(settings: Settings, request: PlanRequest, subject: Subject, tell: Tell) -> tuple[str, Pool, str | None]:
    """The pool, its spec, and the digest of the plan whose sample is taken."""
    if request.like is None:
        tell(f"reading the pool {request.pool}")
        judge = load_judge(settings.judge, cache=settings.cache, tell=tell)
        judge = judge_for(judge, num_classes=subject.classifier.num_classes)
        return request.pool, read_pool(request.pool, subject, judge), None
    other = CertificateFolder(request.like)
    plan = open_plan(other.read("plan.json"), str(request.like / "plan.json"))
    for name in ("height", "width", "class_names_sha256"):
        if getattr(plan.subject, name) != getattr(subject.description, name):
            raise SettingsError(
                f"--like {request.like}: {plan.subject.name} and {subject.description.name} differ in {name}; "
                "accepted: the plan of a network that sees images of the same size and knows the same classes"
            )
    spec = other.places().pool
    tell(f"reading the pool {spec}")
    rows = read_table(other.read("pool.parquet"), POOL, "pool.parquet")
    return spec, read_pool_like(spec, subject, rows), plan.draw_key


def run_certificate(
    settings: Settings,
    folder: Path,
    *,
    workers: int,
    log: bool,
    budget_seconds: float | None = None,
    accept_partial: bool = False,
    beacon: str | None = None,
    now: datetime | None = None,
    tell: Tell = lambda _: None,
) -> RunSummary:
    """Run the plan in `folder`, and enter the finished certificate in the log. Raises what `run_plan` raises."""
    made = CertificateFolder(folder)
    summary = run_plan(
        made,
        settings,
        workers=workers,
        budget_seconds=budget_seconds,
        accept_partial=accept_partial,
        beacon=beacon,
        now=now,
        tell=tell,
    )
    if summary.certificate is not None and log:
        enter_certificate(settings, made)
    return summary


def enter_plan(settings: Settings, folder: CertificateFolder) -> int:
    """Publish plan.json in the store and enter it in the log; return the entry's number."""
    data = folder.read("plan.json")
    plan = open_plan(data, "plan.json")
    detail: dict[str, str | int] = {"id": plan.id, "subject": plan.subject.sha256, "run_before": plan.run_before}
    return enter(settings, "plan", plan.id, {"plan.json": data}, "plan.json", detail).entry.sequence


def enter_certificate(settings: Settings, folder: CertificateFolder) -> int:
    """Publish a certificate's files in the store and enter it in the log; return the entry's number."""
    plan = open_plan(folder.read("plan.json"), "plan.json")
    names = ("plan.json", "pool.parquet", "evidence.tar", "results.parquet", PAGE, CERTIFICATE)
    files = {name: folder.read(name) for name in names}
    statement = digest_of(open_envelope(files[CERTIFICATE], STATEMENT_TYPE, CERTIFICATE).body)
    detail: dict[str, str | int] = {"id": plan.id, "subject": plan.subject.sha256, "statement": statement}
    return enter(settings, "certificate", plan.id, files, CERTIFICATE, detail).entry.sequence


def enter(
    settings: Settings,
    kind: str,
    certificate_id: str,
    files: dict[str, bytes],
    document: str,
    detail: dict[str, str | int],
) -> LogRecord:
    """Put files into the store, the `document` last, and append an entry about it to the log.

    On a chain the new head's root is committed. Raises CorpusError where other bytes lie at one of the keys.
    """
    store = open_store(settings.store, settings.s3)
    for name in sorted(files, key=lambda name: name == document):
        if not store.put_new(key_of(certificate_id, name), files[name]):
            raise CorpusError(f"{key_of(certificate_id, name)} is there already with other bytes; nothing was logged")
    hotkey = load_keypair(settings.subnet)
    new = NewEntry.model_validate(
        {
            "kind": kind,
            "key": key_of(certificate_id, document),
            "sha256": digest_of(files[document]),
            "detail": detail,
        }
    )
    record = open_log(settings).append(new, signer=hotkey, at=datetime.now(UTC).replace(microsecond=0))
    if settings.subnet.network != LOCAL_NETWORK:
        open_chain(settings.subnet).commit(hotkey, record.head.root)
    return record


def open_log(settings: Settings, *, hotkeys: Sequence[str] = ()) -> Log:
    """Return the log of the configured store, as far as trusted validators signed it."""
    return Log(open_store(settings.store, settings.s3), trust=load_trust(settings.subnet, hotkeys=hotkeys))


def _block(settings: Settings) -> int | None:
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    graph = open_chain(settings.subnet).metagraph()
    return None if graph is None else graph.block
