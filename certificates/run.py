"""Runs a plan: beacon, sample, attacks, evidence, statement, signatures. It can be stopped and resumed at any moment.

The result of each image is kept in a file of its own, which is whole or not there; the certificate is put together from
these in the order of the sample. So it is the same however often the run was interrupted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from perturb.certificates.crowd import crowd_records
from perturb.certificates.drawn import draw_images
from perturb.certificates.entries import enter_certificate
from perturb.certificates.finish import Run, observe, write_certificate
from perturb.certificates.folder import CERTIFICATE, CertificateFolder, LocalPlaces
from perturb.certificates.measure import ImageResult, Measurement
from perturb.certificates.places import located, open_subject
from perturb.certificates.plan import Plan, moment, open_plan
from perturb.certificates.pool import pool_pixels
from perturb.certificates.program import code_digest
from perturb.certificates.subject import Subject
from perturb.certificates.workers import Job, SubjectPlace, measure_all
from perturb.schemas.errors import ModelError, SettingsError
from perturb.schemas.settings import Settings
from perturb.subnet.keys import load_keypair

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RunSummary:
    """What a run did: `measured` of `planned` images; `certificate` is None where images are left."""

    id: str
    folder: Path
    planned: int
    measured: int
    certificate: Path | None


def run_certificate(
    settings: Settings,
    path: Path,
    *,
    workers: int,
    log: bool,
    budget_seconds: float | None = None,
    accept_partial: bool = False,
    beacon: str | None = None,
    now: datetime | None = None,
    tell: Tell = lambda _: None,
) -> RunSummary:
    """Measure what the plan in the folder `path` says, and write the certificate when all images are done.

    With `log` it is published in the store and entered in its log. After `budget_seconds` no further image is begun and
    nothing is signed, unless `accept_partial`: then the certificate says how many were measured. Raises SettingsError
    for a plan that expired, another hotkey than the plan's, and a program that changed since; ModelError where the
    subject's weights changed; SourceError where the photographs did.
    """
    began, folder = time.monotonic(), CertificateFolder(path)
    now = now or datetime.now(UTC)
    plan = open_plan(folder.read("plan.json"), str(folder.path / "plan.json"))
    hotkey = load_keypair(settings.subnet)
    _check(plan, hotkey.ss58_address, now)
    places = folder.places()
    drawn = draw_images(plan, folder, beacon or places.beacon, settings)
    tell(f"loading {plan.subject.name}")
    subject = open_subject(places.subject, settings, classes=_classes(places))
    _check_subject(plan, subject)
    tell(f"reading {len(drawn.identities)} of the pool's {plan.pool.images} images")
    pixels = pool_pixels(places.pool, subject, set(drawn.identities))
    run = Run(plan, drawn, pixels, subject, folder, settings)
    deadline = began + budget_seconds if budget_seconds is not None else float("inf")
    _measure(run, places, workers=workers, deadline=deadline, tell=tell)
    results = _results(folder, drawn.identities)
    if len(results) < plan.n and not accept_partial:
        return RunSummary(plan.id, folder.path, plan.n, len(results), None)
    tell("flags, canary and severity")
    observed = observe(run, results, now=now, seconds=time.monotonic() - began)
    write_certificate(run, results, observed, hotkey=hotkey)
    if log:
        enter_certificate(settings, folder)
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
    planned, found = plan.subject.model_dump(), subject.description.model_dump()
    for name, value in planned.items():
        if found[name] != value and name != "name":
            what = "the weights of the subject" if name == "sha256" else f"the subject's {name}"
            raise ModelError(f"{what} changed since the plan: {value} then, {found[name]} now; make a new plan")


def _measure(run: Run, places: LocalPlaces, *, workers: int, deadline: float, tell: Tell) -> None:
    """Measure the images that have no kept result yet."""
    plan, drawn, folder = run.plan, run.drawn, run.folder
    missing = [identity for identity in drawn.identities if folder.result(identity) is None]
    if not missing:
        return
    labels = drawn.labels
    order = {identity: index for index, identity in enumerate(drawn.identities)}
    crowd = crowd_records(folder, places.crowd, drawn.identities, run.settings) if plan.suite.crowd else {}
    jobs = [
        Job(order[identity], labels[identity], run.pixels[identity], crowd.get(identity, ())) for identity in missing
    ]
    count = plan.n - len(missing)

    def done(job: Job, result: ImageResult) -> None:
        nonlocal count
        count += 1
        row = result.rows[0]
        folder.keep_result(row["identity"], result)
        broken = next((str(row["level"]) for row in result.rows if row["status"] == "broken"), None)
        state = f"broken at {broken}/255" if broken else row["status"].replace("_", " ")
        tell(f"{count} of {plan.n} images: {run.subject.class_names[job.label]}, {state}")

    measure_all(
        jobs,
        run.subject.classifier,
        SubjectPlace(*located(places.subject, run.settings), _classes(places)),
        Measurement(plan.levels, plan.suite.attacks, plan.suite.grid, plan.sha256, drawn.randomness),
        workers=workers,
        deadline=deadline,
        done=done,
    )


def _classes(places: LocalPlaces) -> Path | None:
    return Path(places.classes) if places.classes else None


def _results(folder: CertificateFolder, identities: Sequence[str]) -> list[ImageResult]:
    """The kept results, in the order of the sample, up to the first image that has none."""
    found: list[ImageResult] = []
    for identity in identities:
        result = folder.result(identity)
        if result is None:
            break
        found.append(result)
    return found
