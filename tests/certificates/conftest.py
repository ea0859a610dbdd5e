"""One small certificate, made once and tampered with many times."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perturb.certificates.envelope import STATEMENT_TYPE, open_envelope
from perturb.certificates.folder import CERTIFICATE
from perturb.certificates.plan import Plan
from perturb.certificates.subject import Subject, load_subject
from perturb.certificates.verify import Request, Verification, trusts, verify
from perturb.schemas.settings import Settings
from tests.support.certificates import NOW, SMALL, certificate_settings, certified, labelled_photographs, planned


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Made:
    """A finished certificate and what it was made with."""

    settings: Settings
    pool: Path
    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    def subject(self, _: Plan) -> Subject:
        return load_subject(SMALL, self.settings.classifier)

    def verified(self, file: Path | None = None) -> Verification:
        return verify(Request(file or self.file, None, trusts([]), NOW, self.subject))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("certificate")
    settings = certificate_settings(folder)
    pool = labelled_photographs(folder / "photos")
    file = certified(settings, planned(settings, folder / "certificates", pool))
    return Made(settings, pool, file)


def statement_of(folder: Path) -> dict[str, Any]:
    envelope = open_envelope((folder / CERTIFICATE).read_bytes(), STATEMENT_TYPE, CERTIFICATE)
    value: dict[str, Any] = json.loads(envelope.body)
    return value


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Made:
    """The certificate in a folder that a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    return replace(made, file=folder / CERTIFICATE)


def first_fault(made: Made) -> tuple[str, str]:
    """The level that finds a fault, and its first sentence."""
    found = made.verified()
    assert not found.holds
    level = next(level for level in found.levels if level.outcome == "fault")
    assert all(later.outcome == "skipped" for later in found.levels[found.levels.index(level) + 1 :])
    return level.name, level.faults[0]
