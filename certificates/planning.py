"""Plans a certificate: what a person asks for becomes a signed plan in a folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perturb.certificates.entries import enter_plan
from perturb.certificates.folder import CertificateFolder, LocalPlaces
from perturb.certificates.places import open_subject
from perturb.certificates.plan import Plan, check_terms, make_plan, open_plan, read_harm, sign_plan
from perturb.certificates.pool import Pool, read_pool, read_pool_like
from perturb.certificates.subject import Subject
from perturb.certificates.tables import POOL, read_table, write_table
from perturb.models.judge.judge import judge_for, load_judge
from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import Settings
from perturb.subnet.chain import open_chain
from perturb.subnet.keys import LOCAL_NETWORK, companion_keypair, load_keypair

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


def _block(settings: Settings) -> int | None:
    if settings.subnet.network == LOCAL_NETWORK:
        return None
    graph = open_chain(settings.subnet).metagraph()
    return None if graph is None else graph.block
