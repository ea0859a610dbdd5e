"""A subject under contract is certified when it is due, and the command line does all of it as a person does."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from perturb.certificates.contract import certify_when_due
from perturb.certificates.planning import PlanRequest
from perturb.cli import app
from perturb.schemas.errors import AuditError
from tests.certificates.conftest import Made
from tests.support.commands import perturb


def test_once_a_week_and_with_new_weights(made: Made, tmp_path: Path) -> None:
    settings = made.settings.model_copy(update={"store": str(tmp_path / "store")})

    def run(subject: str, every_days: int = 7) -> str:
        request = PlanRequest(f"tests.support.networks:{subject}", f"folder:{made.pool}", 2, levels=(16,))
        found = certify_when_due(settings, request, folder=tmp_path, every_days=every_days, workers=1)
        assert found.rows()
        return found.reason if found.summary else "skipped"

    due = "these weights have no certificate since "
    assert run("small").startswith(due)
    assert run("small") == "skipped"
    assert run("retrained").startswith(due)
    assert run("small") == "skipped"
    assert run("small", every_days=0).startswith(due)


def test_a_person_plans_runs_verifies_and_shows(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERTURB_JUDGE__NAME", "none")
    monkeypatch.setenv("PERTURB_SUBNET__HOTKEY_FILE", str(tmp_path / "hotkey"))
    network = (
        "--subject",
        "tests.support.networks:small",
        "--pool",
        f"folder:{made.pool}",
        "--levels",
        "16",
        "--n",
        "3",
    )

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    done = run("certify", *network, "--claim", "robust@16>=0.3", "--workers", "1", "--hardened", "--json")
    assert done.exit_code == 0, done.output
    assert "data has no hardened network, so there is nothing to compare with" in " ".join(done.stdout.split())
    file = json.loads(done.stdout.splitlines()[-1])["certificate"]
    verified = run("certificate", "verify", file, "--log", "data", "--json")
    found = json.loads(verified.stdout.splitlines()[-1])
    assert (verified.exit_code, found["status"]) == (0, "valid, as of log entry 1")
    assert [level["outcome"] for level in found["levels"]] == [*["holds"] * 5, "skipped", "holds"]
    assert run("certificate", "show", file).stdout == run("certificate", "show", str(Path(file).parent)).stdout
    shown = run("certificate", "show", file, "--html", "page.html", "--cyclonedx", "bom.json")
    assert "undecided" in shown.stdout
    assert Path("page.html").read_bytes() == Path(file).with_name("report.html").read_bytes()
    refused = run("certify", "plan", *network, "--beacon", "chain").exception
    assert str(refused).startswith("--beacon chain: subnet.network is local, which has no chain")
    planned = run("certify", "plan", *network, "--no-log", "--json")
    folder = json.loads(planned.stdout.splitlines()[-1])["folder"]
    stopped = run("certify", "run", folder, "--budget", "0s", "--no-log")
    assert "0 of 3 images are measured" in " ".join(stopped.stdout.split())
    Path(file).write_bytes(Path(file).read_bytes()[:-1])
    assert isinstance(run("certificate", "verify", file).exception, AuditError)
    assert "FAULT L1" in run("certificate", "verify", file).stdout


def test_a_mistake_ends_in_a_sentence(tmp_path: Path) -> None:
    wrong = perturb("certify", "--claim", "robust@1>=2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("perturb: claim 'robust@1>=2' can't be read; accepted: robust@LEVEL>=SHARE")
