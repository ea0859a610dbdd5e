"""A run gives the same certificate with any number of processes, however often it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from perturb.certificates.envelope import STATEMENT_TYPE, open_envelope
from perturb.certificates.folder import CERTIFICATE
from perturb.certificates.planning import Planned
from perturb.certificates.run import run_certificate
from perturb.schemas.errors import AuditError, ModelError, PerturbError, SettingsError, SourceError
from tests.certificates.conftest import Made
from tests.support.certificates import (
    PLANNED_AT,
    ROUND_8,
    RUN_AT,
    certificate_settings,
    certified,
    labelled_photographs,
    planned,
)
from tests.support.commands import ROOT

TIMES = ("evaluatedAt", "durationSeconds", "from", "until")


def without_times(file: Path) -> object:
    body = json.loads(open_envelope(file.read_bytes(), STATEMENT_TYPE, "").body)

    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {key: strip(member) for key, member in value.items() if key not in TIMES}
        return [strip(member) for member in value] if isinstance(value, list) else value

    return strip(body)


@pytest.mark.slow
def test_one_process_and_two_give_the_same(made: Made, tmp_path: Path) -> None:
    again = certified(made.settings, planned(made.settings, tmp_path / "again", made.pool), workers=2)
    for name in ("results.parquet", "evidence.tar", "pool.parquet"):
        assert (again.parent / name).read_bytes() == (made.folder / name).read_bytes()
    assert without_times(again) == without_times(made.file)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(made: Made, tmp_path: Path) -> None:
    """A process is killed after one and three images; a half-written file lies among its work."""
    plan = planned(made.settings, tmp_path / "killed", made.pool)
    program = (
        "import sys; from pathlib import Path; from perturb.certificates.run import run_certificate;"
        "from tests.support.certificates import RUN_AT, certificate_settings;"
        "run_certificate(certificate_settings(Path(sys.argv[1])), Path(sys.argv[2]), workers=1, log=False, now=RUN_AT)"
    )
    work = plan.folder / "work"
    for count in (1, 3):
        command = [sys.executable, "-c", program, str(made.pool.parent), str(plan.folder)]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
        while len(list(work.glob("*.json"))) <= count and process.poll() is None:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (plan.folder / CERTIFICATE).exists()
    done = sorted(work.glob("*.json"), key=lambda path: path.stat().st_mtime)
    done[-1].write_bytes(done[-1].read_bytes()[:100])
    file = certified(made.settings, plan)
    assert (file.parent / "results.parquet").read_bytes() == (made.folder / "results.parquet").read_bytes()
    assert (file.parent / "evidence.tar").read_bytes() == (made.folder / "evidence.tar").read_bytes()
    assert without_times(file) == without_times(made.file)


def test_a_budget_stops_and_a_partial_certificate_says_so(made: Made, tmp_path: Path) -> None:
    plan = planned(made.settings, tmp_path / "budget", made.pool)
    summary = run_certificate(made.settings, plan.folder, workers=1, log=False, now=RUN_AT, budget_seconds=0)
    assert (summary.measured, summary.planned, summary.certificate) == (0, 8, None)
    assert not (plan.folder / CERTIFICATE).exists()
    # Three images are done; the fourth is missing, though a later one is there.
    (plan.folder / "work").mkdir(exist_ok=True)
    kept = sorted(
        json.loads(path.read_bytes())["rows"][0]["index"]
        for path in (made.folder / "work").glob("*.json")
        if "rows" in json.loads(path.read_bytes())
    )
    assert kept == list(range(8))
    for path in (made.folder / "work").glob("*.json"):
        content = json.loads(path.read_bytes())
        if "rows" in content and content["rows"][0]["index"] in (0, 1, 2, 5):
            shutil.copy(path, plan.folder / "work")
    summary = run_certificate(
        made.settings, plan.folder, workers=1, log=False, now=RUN_AT, budget_seconds=0, accept_partial=True
    )
    assert summary.certificate is not None
    assert summary.measured == 3
    found = made.verified(summary.certificate)
    assert found.holds, [level.faults for level in found.levels]
    assert found.statement["predicate"]["sampleSize"] == 3
    assert found.statement["predicate"]["robustness"]["levels"][0]["notRun"] == 5
    assert "confidence sequence" in found.statement["predicate"]["robustness"]["confidence"]["method"]


@pytest.mark.slow
def test_a_masked_subject_is_undecided_and_says_why(made: Made, tmp_path: Path) -> None:
    """Its gradients are zero, so attacks find little; that is a flag and no robustness."""
    plan = planned(
        made.settings,
        tmp_path / "masked",
        made.pool,
        n=2,
        subject="tests.support.networks:masked",
        levels=(1,),
        claims=("robust@1>=0.01",),
    )
    file = certified(made.settings, plan)
    statement = json.loads(open_envelope(file.read_bytes(), STATEMENT_TYPE, "").body)
    block = statement["predicate"]["robustness"]
    assert "zero_gradient" in [flag["name"] for flag in block["flags"]]
    assert block["canary"] == {"found": 20, "of": 20}
    assert statement["predicate"]["claims"][0]["verdict"] == "undecided"


def refused(made: Made, plan: Planned, error: type[PerturbError], sentence: str, **options: object) -> None:
    with pytest.raises(error, match=sentence):
        run_certificate(made.settings, plan.folder, workers=1, log=False, **{"now": RUN_AT, **options})  # type: ignore[arg-type]
    assert not (plan.folder / CERTIFICATE).exists()


def test_what_a_run_refuses(made: Made, tmp_path: Path) -> None:
    plan = planned(made.settings, tmp_path / "refused", made.pool)
    refused(made, plan, SettingsError, "the plan expired", now=PLANNED_AT + timedelta(days=31))
    wrong = tmp_path / "round.json"
    wrong.write_text(json.dumps(ROUND_8))
    refused(made, plan, SettingsError, "gives round 8; the plan needs round 1000", beacon=str(wrong))
    wrong.write_text(json.dumps({**ROUND_8, "round": 1000}))
    refused(made, plan, SettingsError, "is not that of drand's quicknet", beacon=str(wrong))
    refused(made, plan, SettingsError, "name where to get it with --beacon", beacon="none")
    local = plan.folder / "local.json"
    places = local.read_text()
    local.write_text(places.replace("networks:small", "networks:retrained"))
    refused(made, plan, ModelError, "the weights of the subject changed since the plan")
    local.write_text(places)
    pool = (plan.folder / "pool.parquet").read_bytes()
    other = planned(made.settings, tmp_path / "other", labelled_photographs(tmp_path / "others", seed=9))
    shutil.copy(other.folder / "pool.parquet", plan.folder)
    refused(made, plan, AuditError, "pool.parquet is not the pool of the plan")
    (plan.folder / "pool.parquet").write_bytes(pool)
    local.write_text(places.replace(str(made.pool), str(tmp_path / "others")))
    refused(made, plan, SourceError, "lacks .* images that were there when it was planned")
    local.write_text(places)
    stranger = certificate_settings(tmp_path)
    with pytest.raises(SettingsError, match="only its signer can run it"):
        run_certificate(stranger, plan.folder, workers=1, log=False, now=RUN_AT)


def test_pools_that_are_refused(made: Made, tmp_path: Path) -> None:
    few = labelled_photographs(tmp_path / "few", count=10)
    with pytest.raises(SourceError, match="has 10 usable images; accepted: 20 or more"):
        planned(made.settings, tmp_path, few)
    unknown = labelled_photographs(tmp_path / "unknown")
    table = unknown / "metadata.csv"
    table.write_text(table.read_text().replace(",e", ",platypus e").replace(",o", ",other o"))
    with pytest.raises(SourceError, match="of a class that the subject doesn't have"):
        planned(made.settings, tmp_path, unknown)
    twice = labelled_photographs(tmp_path / "twice")
    for path in list(twice.glob("00[0-4].png")):
        shutil.copy(path, twice / f"copy-{path.name}")
    with table.open() as _, (twice / "metadata.csv").open("a") as file:
        file.writelines(f"copy-{number:03}.png,eight\n" for number in range(5))
    plan = planned(made.settings, tmp_path / "t", twice)
    assert plan.plan.pool.left_out == {"duplicate of another image": 5}
    with pytest.raises(SourceError, match="is not there"):
        planned(made.settings, tmp_path, tmp_path / "nowhere")
