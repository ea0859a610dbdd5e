"""A plan: what will be measured, fixed and signed before anything is.

Its digest enters the choice of the sample and the seeds of the attacks, so a plan can't be changed afterwards.
"""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.certificates import beacon
from perturb.certificates.autoattack import SUITES, attacks_of
from perturb.certificates.claims import Claim, parse_claim
from perturb.certificates.envelope import PLAN_TYPE, open_envelope, parsed_body, seal, signature_faults
from perturb.certificates.pool import Pool
from perturb.certificates.program import PACKAGES, code_digest, package_digest
from perturb.certificates.subject import Subject, SubjectDescription
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError, SettingsError
from perturb.subnet.keys import Keypair

FORMAT = 1
LARGEST_LEVEL = 64
RUN_WITHIN = timedelta(days=30)
SEED_RULE = "sha256(randomness || plan_sha256 || identity [|| 'autoattack' || level as 2 bytes])"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PoolDescription(_Part):
    """The pool as a plan fixes it: the root of the tree over its rows, and counts of what is in it."""

    root: str = Field(pattern=r"^[0-9a-f]{64}$")
    images: int = Field(gt=0)
    clusters: int = Field(gt=0)
    labels: dict[str, int]
    licenses: dict[str, int]
    left_out: dict[str, int]


class SuiteDescription(_Part):
    """The attacks, what else tries, and the digests of the code that does it."""

    name: str
    attacks: tuple[str, ...]
    skipped: dict[str, str]
    grid: bool
    crowd: bool
    packages: dict[str, str]
    autoattack_sha256: str
    code_sha256: str


class BeaconPlan(_Part):
    """The public randomness that will choose the sample; without one, the evaluator could have chosen it."""

    kind: Literal["none", "drand-quicknet"]
    chain_hash: str | None = None
    round: int | None = None


class Harm(_Part):
    """How bad the provider finds it when a class is taken for another; `*` stands for every class."""

    from_: str = Field(alias="from")
    to: str
    harm: Literal["low", "medium", "high"]


class Plan(_Part):
    """What is fixed. Times are RFC 3339 in UTC, shares are decimal strings.

    `drawn_as` is the digest of the plan whose sample this one takes, so that two networks meet the same images.
    """

    format: Literal[1] = 1
    created_at: str
    not_before_block: int | None = None
    run_before: str
    valid_days: int = Field(gt=0, le=3660)
    signer: str
    companion: str = Field(pattern=r"^[0-9a-f]{64}$")
    subject: SubjectDescription
    pool: PoolDescription
    n: int = Field(gt=0)
    drawn_as: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    levels: tuple[int, ...]
    alpha: str = Field(pattern=r"^0\.[0-9]{1,6}$")
    suite: SuiteDescription
    claims: tuple[Claim, ...]
    harm: tuple[Harm, ...] = ()
    seed_rule: str = SEED_RULE
    beacon: BeaconPlan
    provider: str | None = None
    responsible: str | None = None
    purpose: str | None = None

    def body(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @property
    def sha256(self) -> str:
        """The digest of the body: 64 hex digits."""
        return hashlib.sha256(self.body()).hexdigest()

    @property
    def draw_key(self) -> str:
        """The digest that chooses the sample: that of this plan, or of the one whose sample it takes."""
        return self.drawn_as or self.sha256

    @property
    def id(self) -> str:
        """The name of the certificate's folder."""
        return self.sha256[:24]


def make_plan(
    subject: Subject,
    pool: Pool,
    *,
    n: int,
    levels: Sequence[int],
    suite: str,
    claims: Sequence[str],
    signer: str,
    companion: str,
    now: datetime,
    with_beacon: bool,
    drawn_as: str | None = None,
    crowd: bool = False,
    alpha: str = "0.05",
    valid_days: int = 365,
    harm: Sequence[Harm] = (),
    block: int | None = None,
    provider: str | None = None,
    responsible: str | None = None,
    purpose: str | None = None,
) -> Plan:
    """Return a plan. Raises SettingsError for levels, claims, a suite or a number of images that can't be measured."""
    chosen, parsed = check_terms(levels, suite, claims)
    if not 1 <= n <= len(pool.rows):
        raise SettingsError(f"--n {n} is outside the pool; accepted: 1 to {len(pool.rows)}")
    known = set(subject.class_names) | {"*"}
    for one in harm:
        for name in (one.from_, one.to):
            if name not in known:
                raise SettingsError(f"harm list: {name!r} is not a class of the subject; accepted: its names, or *")
    access = subject.description.access
    attacks, skipped = attacks_of(suite, num_classes=subject.description.num_classes, access=access)
    at = now.astimezone(UTC)
    return Plan(
        created_at=timestamp(at),
        not_before_block=block,
        run_before=timestamp(at + RUN_WITHIN),
        valid_days=valid_days,
        signer=signer,
        companion=companion,
        subject=subject.description,
        pool=PoolDescription(
            root=pool.root,
            images=len(pool.rows),
            clusters=len({row["cluster"] for row in pool.rows}),
            labels=_counts(row["label_from"] for row in pool.rows),
            licenses=_counts(row["license"] or "not stated" for row in pool.rows),
            left_out=pool.left_out,
        ),
        n=n,
        drawn_as=drawn_as,
        levels=chosen,
        alpha=alpha,
        suite=SuiteDescription(
            name=suite,
            attacks=attacks,
            skipped=skipped,
            grid=access == "gradients",
            crowd=crowd,
            packages={name: version(name) for name in PACKAGES},
            autoattack_sha256=package_digest("pyautoattack"),
            code_sha256=code_digest(),
        ),
        claims=parsed,
        harm=tuple(harm),
        beacon=BeaconPlan(kind="drand-quicknet", chain_hash=beacon.CHAIN_HASH, round=beacon.round_after(at))
        if with_beacon
        else BeaconPlan(kind="none"),
        provider=provider,
        responsible=responsible,
        purpose=purpose,
    )


def check_terms(levels: Sequence[int], suite: str, claims: Sequence[str]) -> tuple[tuple[int, ...], tuple[Claim, ...]]:
    """Return levels and claims of a plan. Raises SettingsError for those, or a suite, that can't be measured."""
    chosen = _levels(levels)
    if suite not in SUITES:
        raise SettingsError(f"suite {suite!r} is not known; accepted: {', '.join(SUITES)}")
    return chosen, tuple(parse_claim(claim, chosen) for claim in claims)


def sign_plan(plan: Plan, *, hotkey: Keypair, companion: Keypair) -> bytes:
    """Return plan.json: the plan in an envelope with both signatures."""
    return seal(PLAN_TYPE, plan.body(), hotkey=hotkey, companion=companion)


def open_plan(data: bytes, where: str) -> Plan:
    """Return the plan of a signed plan.json. Raises AuditError for another file, and for signatures that don't hold."""
    envelope = open_envelope(data, PLAN_TYPE, where)
    plan = parse_plan(parsed_body(envelope, where), where)
    if faults := signature_faults(envelope, hotkey=plan.signer, companion=plan.companion):
        raise AuditError(f"{where}: {'; '.join(faults)}")
    return plan


def parse_plan(value: dict[str, Any], where: str) -> Plan:
    """Return the plan of a JSON object. Raises AuditError where it is none, or is not written canonically."""
    try:
        plan = Plan.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AuditError(f"{where} is not a plan that this program reads: {place}: {first['msg']}") from error
    if plan.body() != canonical_json(value):
        raise AuditError(f"{where} is not a plan in canonical form")
    return plan


def read_harm(path: Path) -> tuple[Harm, ...]:
    """Return the harm list of a TOML file of tables `[[harm]]`. Raises SettingsError, with the form, for another."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["harm"]
        return tuple(Harm.model_validate(entry) for entry in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"--harm {path} can't be read ({str(error).splitlines()[0]}); accepted: [[harm]] tables with "
            'from = "CLASS", to = "CLASS" or "*", harm = "low", "medium" or "high"'
        ) from error


def timestamp(moment: datetime) -> str:
    """Return a time as RFC 3339 in whole seconds of UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """Return the time that `timestamp` wrote. Raises ValueError for another text."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _levels(levels: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(sorted(set(levels)))
    if not chosen or len(chosen) != len(levels) or not all(1 <= level <= LARGEST_LEVEL for level in chosen):
        raise SettingsError(
            f"--levels {','.join(map(str, levels))}: accepted are different whole levels of 255, from 1 to "
            f"{LARGEST_LEVEL}, such as 1,2,4,8"
        )
    return chosen


def _counts(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
