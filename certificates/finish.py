"""What follows the attacks: flags, canary and severity are observed, and the certificate is written and signed."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import torch

from perturb.certificates.canary import COUNT, find_canaries
from perturb.certificates.drawn import Drawn
from perturb.certificates.envelope import STATEMENT_TYPE, seal
from perturb.certificates.flags import IMAGES, probe
from perturb.certificates.folder import CERTIFICATE, PAGE, CertificateFolder, broken_name, clean_name, pack
from perturb.certificates.measure import ImageResult, empty_rows
from perturb.certificates.page import render_page
from perturb.certificates.plan import Plan, timestamp
from perturb.certificates.severity import judge_facts, judge_rows
from perturb.certificates.statement import Observed, derive, digest_of, harness_version
from perturb.certificates.subject import Subject
from perturb.certificates.tables import RESULTS, Row, write_table
from perturb.certificates.workers import one_thread
from perturb.models.judge.judge import Judge, judge_for, load_judge
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import SettingsError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import Settings
from perturb.subnet.keys import Keypair, companion_keypair


@dataclass(frozen=True, eq=False)
class Run:
    """A run as it is loaded: its plan, sample, images by identity (uint8 (H, W, 3)), and subject."""

    plan: Plan
    drawn: Drawn
    pixels: dict[str, Pixels]
    subject: Subject
    folder: CertificateFolder
    settings: Settings

    def judge(self) -> Judge:
        """Return the judge that compares names of the subject's classes."""
        loaded = load_judge(self.settings.judge, cache=self.settings.cache)
        return judge_for(loaded, num_classes=self.plan.subject.num_classes)


def observe(run: Run, results: Sequence[ImageResult], *, now: datetime, seconds: float) -> Observed:
    """Return what is observed once: flags' measurements, the canary, the machine, the judge. `seconds` is the time
    that the run took."""
    plan, drawn, subject = run.plan, run.drawn, run.subject
    with one_thread():
        first = [run.pixels[identity] for identity in drawn.identities[:IMAGES]]
        probes = probe(subject.classifier, first, access=plan.subject.access)
        found = find_canaries(
            bytes.fromhex(plan.sha256) + drawn.randomness,
            level=plan.levels[0],
            attacks=plan.suite.attacks,
            access=plan.subject.access,
        )
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
        judge=judge_facts(run.judge()),
        classNames={str(index): subject.class_names[index] for index in sorted(shown)},
        harnessVersion=harness_version(),
        log=run.folder.work("log"),
    )


def write_certificate(run: Run, results: Sequence[ImageResult], observed: Observed, *, hotkey: Keypair) -> None:
    """Write evidence, results and page, and then the certificate.

    Raises SettingsError where the ed25519 key that the plan names is not there: nothing could be signed with it.
    """
    plan, folder = run.plan, run.folder
    companion = companion_keypair(run.settings.subnet, hotkey.ss58_address)
    if companion.public_key.hex() != plan.companion:
        raise SettingsError("the ed25519 key that the plan names is not the one kept beside your hotkey; restore it")
    rows = _rows(run, results)
    members: dict[str, bytes] = {}
    for identity, result in zip(run.drawn.identities, results, strict=False):
        members[clean_name(identity)] = encode_png(run.pixels[identity])
        if result.witness is not None:
            members[broken_name(identity)] = result.witness
    files = {"evidence.tar": pack(members), "results.parquet": write_table(rows, RESULTS)}
    digests = {name: digest_of(data) for name, data in files.items()}
    digests["pool.parquet"] = digest_of(folder.read("pool.parquet"))
    statement = derive(plan, run.drawn.pool, rows, observed, digests)
    for name, data in files.items():
        folder.write(name, data)
    folder.write(PAGE, render_page(statement, rows, members).encode())
    folder.write(CERTIFICATE, seal(STATEMENT_TYPE, canonical_json(statement), hotkey=hotkey, companion=companion))


def _rows(run: Run, results: Sequence[ImageResult]) -> list[Row]:
    """The rows of results.parquet, with severity; images that were left out stand last."""
    rows = [row for result in results for row in result.rows]
    identities, labels = run.drawn.identities, run.drawn.labels
    for index, identity in enumerate(identities[len(results) :], start=len(results)):
        rows += empty_rows(index, identity, labels[identity], run.plan.levels)
    return judge_rows(rows, run.judge(), is_imagenet=run.subject.is_imagenet)
