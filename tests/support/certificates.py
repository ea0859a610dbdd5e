"""Small certificates for tests: photographs of scikit-image, cut to 32 pixels, and a small torch network."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from perturb.certificates.beacon import DELAY, time_of
from perturb.certificates.envelope import STATEMENT_TYPE, seal
from perturb.certificates.folder import CERTIFICATE, CertificateFolder
from perturb.certificates.planning import Planned, PlanRequest, plan_certificate
from perturb.certificates.run import run_certificate
from perturb.certificates.subject import torch_classifier
from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.settings import Settings, load_settings
from perturb.subnet.keys import companion_keypair, load_keypair
from tests.support import networks
from tests.support.synthetic import clean_pixels

# Two rounds of drand's quicknet, as its relays publish them.
ROUND_1000 = {
    "round": 1000,
    "signature": "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39",
}
ROUND_8 = {
    "round": 8,
    "signature": "a0c06b9964123d2e6036aa004c140fc301f4edd3ea6b8396a15dfd7dfd70cc0dce0b4a97245995767ab72cf59de58c47",
}
PLANNED_AT = time_of(1000) - DELAY
RUN_AT = time_of(1000) + timedelta(seconds=30)
LEVELS = (6, 8)
SMALL = "tests.support.networks:small"


def certificate_settings(folder: Path) -> Settings:
    """Settings with a key, a store and a cache of their own, and no judge."""
    subnet = {"network": "local", "hotkey_file": folder / "hotkey"}
    return load_settings(store=str(folder / "store"), judge={"name": "none"}, subnet=subnet)  # type: ignore[arg-type]


def labelled_photographs(folder: Path, *, count: int = 24, wrong: int = 1, seed: int = 0) -> Path:
    """Write photographs whose file names and folders say the class that `networks.small` sees; `wrong` say another."""
    classifier = torch_classifier("small", networks.small())
    rng = np.random.default_rng(seed)
    rows = []
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = clean_pixels(rng, networks.SIDE)
        seen = int(classifier.logits(pixels[None])[0].argmax())
        label = seen if number >= wrong else (seen + 1) % len(networks.CLASSES)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
        rows.append((f"{number:03}.png", networks.CLASSES[label]))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows])
    return folder


def beacon_file(folder: Path) -> Path:
    """Write round 1000 as a relay gives it."""
    path = folder / "round.json"
    path.write_text(json.dumps(ROUND_1000))
    return path


def planned(
    settings: Settings,
    folder: Path,
    pool: Path,
    *,
    n: int = 8,
    subject: str = SMALL,
    levels: tuple[int, ...] = LEVELS,
    log: bool = False,
    now: datetime = PLANNED_AT,
    beacon: bool = True,
    suite: str = "quick",
    claims: tuple[str, ...] = ("robust@6>=0.30", "clean>=0.5"),
) -> Planned:
    """Plan a small certificate whose sample round 1000 chooses."""
    request = PlanRequest(
        subject=subject,
        pool=f"folder:{pool}",
        n=n,
        levels=levels,
        suite=suite,
        claims=claims,
        beacon=str(beacon_file(pool.parent)) if beacon else "none",
    )
    return plan_certificate(settings, request, folder=folder, log=log, now=now)


def certified(settings: Settings, plan: Planned, *, workers: int = 1, log: bool = False) -> Path:
    """Run a plan; return the certificate's file."""
    summary = run_certificate(settings, plan.folder, workers=workers, log=log, now=RUN_AT)
    assert summary.certificate is not None
    return summary.certificate


def resign(settings: Settings, folder: Path, statement: object) -> None:
    """Sign another statement with the certificate's own keys, as a dishonest signer would."""
    hotkey = load_keypair(settings.subnet)
    companion = companion_keypair(settings.subnet, hotkey.ss58_address)
    data = seal(STATEMENT_TYPE, canonical_json(statement), hotkey=hotkey, companion=companion)
    CertificateFolder(folder).write(CERTIFICATE, data)


NOW = datetime(2023, 9, 1, tzinfo=UTC)
