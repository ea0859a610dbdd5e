"""Certificates in the log: the order of events, and what becomes of a certificate later."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from perturb.certificates.aging import revoke
from perturb.certificates.entries import enter_certificate, enter_plan, open_log
from perturb.certificates.folder import CertificateFolder
from perturb.certificates.verify import Request, Verification, trusts, verify
from perturb.schemas.errors import CorpusError, SettingsError
from perturb.schemas.settings import Settings
from tests.certificates.conftest import Made
from tests.support.certificates import NOW, certificate_settings, certified, planned


@pytest.fixture
def logged(made: Made, tmp_path: Path) -> tuple[Made, Settings]:
    """The certificate in a folder of its own, and settings with an empty store; nothing is logged yet."""
    shutil.copytree(made.folder, tmp_path / "logged")
    settings = made.settings.model_copy(update={"store": str(tmp_path / "store")})
    return replace(made, file=tmp_path / "logged" / made.file.name), settings


def verified(made: Made, settings: Settings, root: str | None = "none") -> Verification:
    on_chain = None if root == "none" else (lambda: root)
    return verify(Request(made.file, None, trusts([]), NOW, made.subject, log=open_log(settings), on_chain=on_chain))


def test_plan_and_certificate_in_their_order(logged: tuple[Made, Settings]) -> None:
    made, settings = logged
    folder = CertificateFolder(made.folder)
    assert "the plan is not in the log" in verified(made, settings).levels[-1].faults[0]
    assert enter_plan(settings, folder) == 0
    assert verified(made, settings).levels[-1].faults[-1] == "the certificate is not in the log"
    assert enter_certificate(settings, folder) == 1
    assert enter_certificate(settings, folder) == 1, "what is logged already is not logged again"
    # It was logged now, years after the beacon's round that the test replays.
    late = verified(made, settings).levels[-1].faults
    assert [fault for fault in late if "after round 1000 of the beacon was known" not in fault] == []
    assert len(late) == 1


@pytest.fixture
def timely(made: Made, logged: tuple[Made, Settings], tmp_path: Path) -> tuple[Made, Settings]:
    """A certificate without a beacon, planned, logged, run and logged."""
    _, settings = logged
    plan = planned(settings, tmp_path / "timely", made.pool, n=2, log=True, beacon=False)
    return replace(made, file=certified(settings, plan, log=True)), settings


def test_revoked_superseded_and_anchored(timely: tuple[Made, Settings], tmp_path: Path) -> None:
    made, settings = timely
    found = verified(made, settings)
    assert found.holds, found.levels
    assert found.status == "valid, as of log entry 1"
    newest = open_log(settings).newest()
    assert newest is not None
    assert verified(made, settings, newest.head.root).holds
    assert "is none of this log's" in verified(made, settings, "0" * 64).levels[-1].faults[0]
    assert "has committed no root" in verified(made, settings, None).levels[-1].faults[0]
    plan = planned(settings, tmp_path / "second", made.pool, n=2, log=True, beacon=False, claims=())
    second = replace(made, file=certified(settings, plan, log=True))
    assert verified(made, settings).status == f"superseded by {plan.plan.id}, as of log entry 3"
    stranger = certificate_settings(tmp_path / "stranger").model_copy(update={"store": settings.store})
    with pytest.raises(SettingsError, match="only its signer can revoke it"):
        revoke(stranger, second.file, "because")
    with pytest.raises(SettingsError, match="--reason needs"):
        revoke(settings, second.file, " ")
    revoke(settings, second.file, "the labels were wrong")
    assert verified(second, settings).status == "revoked: the labels were wrong, as of log entry 4"
    assert verified(made, settings).status.startswith("superseded")


def test_another_document_under_the_same_key_is_refused(timely: tuple[Made, Settings]) -> None:
    made, settings = timely
    folder = CertificateFolder(made.folder)
    folder.write("report.html", b"another page")
    with pytest.raises(CorpusError, match="is there already with other bytes"):
        enter_certificate(settings, folder)


def test_surviving_images_are_attacked_again(made: Made, tmp_path: Path) -> None:
    plan = planned(made.settings, tmp_path / "survivors", made.pool, n=2, beacon=False, levels=(1,), claims=())
    file = certified(made.settings, plan)
    request = Request(file, None, trusts([]), NOW + timedelta(days=1), made.subject, replay=1)
    found = verify(request)
    assert [level.outcome for level in found.levels][:6] == ["holds"] * 6, found.levels
    none = verify(replace(request, file=made.file))
    assert none.levels[5].note.startswith("no image survived"), none.levels
