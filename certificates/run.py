"""Runs a plan: beacon, sample, attacks, evidence, statement, signatures. It can be stopped and resumed at any moment.

The result of each image is kept in a file of its own, which is whole or not there; the certificate is put together from
these in the order of the sample. So it is the same however often the run was interrupted.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from perturb.certificates import beacon as drand
from perturb.certificates.canary import COUNT, find_canaries
from perturb.certificates.crowd import crowd_records
from perturb.certificates.draw import sample
from perturb.certificates.envelope import STATEMENT_TYPE, seal
from perturb.certificates.flags import IMAGES, probe
from perturb.certificates.folder import (
    CERTIFICATE,
    PAGE,
    CertificateFolder,
    LocalPlaces,
    broken_name,
    clean_name,
    pack,
)
from perturb.certificates.measure import ImageResult, Measurement, empty_rows
from perturb.certificates.page import render_page
from perturb.certificates.places import located, open_subject
from perturb.certificates.plan import Plan, code_digest, moment, open_plan, timestamp
from perturb.certificates.pool import pool_pixels
from perturb.certificates.severity import judge_facts, judge_rows
from perturb.certificates.statement import Observed, derive, digest_of, harness_version
from perturb.certificates.subject import Subject
from perturb.certificates.tables import POOL, RESULTS, Row, read_table, tree_root, write_table
from perturb.certificates.workers import Job, SubjectPlace, measure_all, one_thread
from perturb.models.judge.judge import judge_for, load_judge
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import AuditError, SettingsError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import Settings
from perturb.subnet.keys import Keypair, companion_keypair, load_keypair

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunSummary:
    """What a run did: `measured` of `planned` images; `certificate` is None where images are left."""

    id: str
    folder: Path
    planned: int
    measured: int
    certificate: Path | None


@dataclass(frozen=True, eq=False)
class _Draw:
    """The images to measure, in order, and what chose them."""

    pulse: drand.Pulse | None
    identities: list[str]
    pool: list[Row]

    @property
    def randomness(self) -> bytes:
        return drand.NO_RANDOMNESS if self.pulse is None else self.pulse.randomness


def run_plan(
    folder: CertificateFolder,
    settings: Settings,
    *,
    workers: int,
    budget_seconds: float | None = None,
    accept_partial: bool = False,
    beacon: str | None = None,
    now: datetime | None = None,
    tell: Tell = lambda _: None,
) -> RunSummary:
    """Measure what the plan in `folder` says, and write the certificate when all images are done.

    After `budget_seconds` no further image is begun, and nothing is signed, unless `accept_partial`: then the
    certificate says how many were measured. Raises SettingsError for a plan that expired, another hotkey than the
    plan's, and a program that changed since; ModelError where the subject's weights changed; SourceError where the
    photographs did.
    """
    began = time.monotonic()
    now = now or datetime.now(UTC)
    plan = open_plan(folder.read("plan.json"), str(folder.path / "plan.json"))
    hotkey = load_keypair(settings.subnet)
    _check(plan, hotkey.ss58_address, now)
    places = folder.places()
    drawn = _draw(plan, folder, beacon or places.beacon, settings)
    tell(f"loading {plan.subject.name}")
    classes = Path(places.classes) if places.classes else None
    subject = open_subject(places.subject, settings, classes=classes)
    _check_subject(plan, subject)
    tell(f"reading {len(drawn.identities)} of the pool's {plan.pool.images} images")
    pixels = pool_pixels(places.pool, subject, set(drawn.identities))
    place = SubjectPlace(*located(places.subject, settings), classes)
    deadline = began + budget_seconds if budget_seconds is not None else float("inf")
    _measure(
        plan, drawn, pixels, subject, place, folder, places, settings, workers=workers, deadline=deadline, tell=tell
    )
    results = _results(folder, drawn.identities)
    if len(results) < plan.n and not accept_partial:
        return RunSummary(plan.id, folder.path, plan.n, len(results), None)
    tell("flags, canary and severity")
    observed = _observe(plan, drawn, pixels, subject, folder, settings, now, time.monotonic() - began, results)
    _write(plan, drawn, pixels, subject, folder, settings, observed, results, hotkey)
    return RunSummary(plan.id, folder.path, plan.n, len(results), folder.path / CERTIFICATE)


def _check(plan: Plan, hotkey: str, now: datetime) -> None:
    if plan.signer != hotkey:
        raise SettingsError(f"the plan is signed by {plan.signer}, your hotkey is {hotkey}; only its signer can run it")
    if now > moment(plan.run_before):
        raise SettingsError(f"the plan expired: it could be run before {plan.run_before}; make a new one")
    if plan.suite.code_sha256 != code_digest():
        raise SettingsError("the code of the attacks changed since the plan; run it with the version that made it")
    for name, planned in plan.suite.packages.items():
        if version(name) != planned:
            raise SettingsError(f"the plan was made with {name} {planned}, installed is {version(name)}")


def _check_subject(plan: Plan, subject: Subject) -> None:
    from perturb.schemas.errors import ModelError

    planned, found = plan.subject.model_dump(), subject.description.model_dump()
    for name, value in planned.items():
        if found[name] != value and name != "name":
            what = "the weights of the subject" if name == "sha256" else f"the subject's {name}"
            raise ModelError(f"{what} changed since the plan: {value} then, {found[name]} now; make a new plan")


def _draw(plan: Plan, folder: CertificateFolder, source: str | None, settings: Settings) -> _Draw:
    pool = read_table(folder.read("pool.parquet"), POOL, "pool.parquet")
    if tree_root(pool) != plan.pool.root:
        raise AuditError(f"pool.parquet is not the pool of the plan in {folder.path}; restore it, or make a new plan")
    pulse = None
    if plan.beacon.kind != "none":
        assert plan.beacon.round is not None
        pulse = _pulse(folder, source, plan.beacon.round, settings)
    drawn = _Draw(pulse, [], pool)
    identities = sample(
        (row["identity"] for row in pool), count=plan.n, plan_sha256=plan.draw_key, randomness=drawn.randomness
    )
    return _Draw(pulse, identities, pool)


def _pulse(folder: CertificateFolder, source: str | None, number: int, settings: Settings) -> drand.Pulse:
    kept = folder.work("beacon")
    if kept is not None:
        return drand.Pulse.model_validate(kept)
    if source is None or source == "none":
        raise SettingsError(
            f"the plan's sample is chosen by round {number} of drand's quicknet, published at "
            f"{timestamp(drand.time_of(number))}; name where to get it with --beacon: a JSON file, an HTTP relay, or "
            "chain"
        )
    chain = None
    if source == "chain":
        from perturb.subnet.chain import open_chain

        chain = open_chain(settings.subnet)
    pulse = drand.obtain(source, number, chain=chain)
    folder.keep_work("beacon", pulse.model_dump())
    return pulse


def _measure(
    plan: Plan,
    drawn: _Draw,
    pixels: dict[str, Pixels],
    subject: Subject,
    place: SubjectPlace,
    folder: CertificateFolder,
    places: LocalPlaces,
    settings: Settings,
    *,
    workers: int,
    deadline: float,
    tell: Tell,
) -> None:
    """Measure the images that have no kept result yet."""
    missing = [identity for identity in drawn.identities if folder.result(identity) is None]
    if not missing:
        return
    labels = {row["identity"]: row["label"] for row in drawn.pool}
    order = {identity: index for index, identity in enumerate(drawn.identities)}
    crowd = crowd_records(folder, places.crowd, drawn.identities, settings) if plan.suite.crowd else {}
    jobs = [Job(order[identity], labels[identity], pixels[identity], crowd.get(identity, ())) for identity in missing]
    count = plan.n - len(missing)

    def done(job: Job, result: ImageResult) -> None:
        nonlocal count
        count += 1
        row = result.rows[0]
        folder.keep_result(row["identity"], result)
        broken = next((str(row["level"]) for row in result.rows if row["status"] == "broken"), None)
        state = f"broken at {broken}/255" if broken else row["status"].replace("_", " ")
        tell(f"{count} of {plan.n} images: {subject.class_names[job.label]}, {state}")

    measure_all(
        jobs,
        subject.classifier,
        place,
        _measurement(plan, drawn.randomness),
        workers=workers,
        deadline=deadline,
        done=done,
    )


def _measurement(plan: Plan, randomness: bytes) -> Measurement:
    return Measurement(plan.levels, plan.suite.attacks, plan.suite.grid, plan.sha256, randomness)


def _results(folder: CertificateFolder, identities: Sequence[str]) -> list[ImageResult]:
    """The kept results, in the order of the sample, up to the first image that has none."""
    found: list[ImageResult] = []
    for identity in identities:
        result = folder.result(identity)
        if result is None:
            break
        found.append(result)
    return found


def _observe(
    plan: Plan,
    drawn: _Draw,
    pixels: dict[str, Pixels],
    subject: Subject,
    folder: CertificateFolder,
    settings: Settings,
    now: datetime,
    seconds: float,
    results: Sequence[ImageResult],
) -> Observed:
    with one_thread():
        first = [pixels[identity] for identity in drawn.identities[:IMAGES]]
        probes = probe(subject.classifier, first, access=plan.subject.access)
        found = find_canaries(
            bytes.fromhex(plan.sha256) + drawn.randomness,
            level=plan.levels[0],
            attacks=plan.suite.attacks,
            access=plan.subject.access,
        )
    judge = judge_for(load_judge(settings.judge, cache=settings.cache), num_classes=plan.subject.num_classes)
    shown = {row["label"] for row in drawn.pool} | {
        row["adversarial_label"] for result in results for row in result.rows if row["adversarial_label"] is not None
    }
    return Observed(
        evaluatedAt=timestamp(now),
        durationSeconds=round(seconds),
        pulse=None if drawn.pulse is None else drawn.pulse.model_dump(),
        probes=probes,
        canary=(found, COUNT),
        environment={
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": str(subject.classifier.device),
            "torchBuild": str(torch.__version__),
        },
        judge=judge_facts(judge),
        classNames={str(index): subject.class_names[index] for index in sorted(shown)},
        harnessVersion=harness_version(),
        log=folder.work("log"),
    )


def _write(
    plan: Plan,
    drawn: _Draw,
    pixels: dict[str, Pixels],
    subject: Subject,
    folder: CertificateFolder,
    settings: Settings,
    observed: Observed,
    results: Sequence[ImageResult],
    hotkey: Keypair,
) -> None:
    """Write evidence, results and page, and then the certificate."""
    judge = judge_for(load_judge(settings.judge, cache=settings.cache), num_classes=plan.subject.num_classes)
    rows = [row for result in results for row in result.rows]
    labels = {row["identity"]: row["label"] for row in drawn.pool}
    for index, identity in enumerate(drawn.identities[len(results) :], start=len(results)):
        rows += empty_rows(index, identity, labels[identity], plan.levels)
    rows = judge_rows(rows, judge, is_imagenet=subject.is_imagenet)
    members: dict[str, bytes] = {}
    for identity, result in zip(drawn.identities, results, strict=False):
        members[clean_name(identity)] = encode_png(pixels[identity])
        if result.witness is not None:
            members[broken_name(identity)] = result.witness
    files = {"evidence.tar": pack(members), "results.parquet": write_table(rows, RESULTS)}
    digests = {name: digest_of(data) for name, data in files.items()}
    digests["pool.parquet"] = digest_of(folder.read("pool.parquet"))
    statement = derive(plan, drawn.pool, rows, observed, digests)
    for name, data in files.items():
        folder.write(name, data)
    folder.write(PAGE, render_page(statement, rows, members).encode())
    companion = companion_keypair(settings.subnet, hotkey.ss58_address)
    if companion.public_key.hex() != plan.companion:
        raise SettingsError("the ed25519 key that the plan names is not the one kept beside your hotkey; restore it")
    folder.write(CERTIFICATE, seal(STATEMENT_TYPE, canonical_json(statement), hotkey=hotkey, companion=companion))
