"""The flow of a command does what its step does."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perturb.cli import app
from perturb.schemas.errors import AuditError
from tests.support.validator_folder import validator_folder


@pytest.mark.slow
def test_the_flow_says_what_the_step_says(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command twice on copies of one corpus, and the second time as a flow."""
    # Which records a smaller tier holds depends on the operator's secret, which each corpus would draw for itself.
    monkeypatch.setenv("PERTURB_PSEUDONYM_KEY", "the operator's secret")
    (tmp_path / "one").mkdir()
    one, other = validator_folder(tmp_path / "one"), tmp_path / "other"
    shutil.copytree(one, other)
    for command in (
        ("seal", "--day", "2026-01-06", "--early"),
        ("export", "--tier", "sample"),
        ("weights", "--dry-run"),
        ("audit", "--no-deep"),
        ("gc",),
    ):
        ended = []
        for where, how in ((one, "--no-flow"), (other, "--flow")):
            monkeypatch.chdir(where)
            ran = CliRunner().invoke(app, [*command, how, "--json"])
            # A sealed day's folder has a random name: manifests have more or fewer bytes, and the log another root.
            said = json.loads(ran.stdout.splitlines()[-1]) | {"bytes": 0, "root": ""}
            ended.append((type(ran.exception), str(ran.exception), said))
        step, flow = ended
        assert step == flow, command
        # The corpus' signatures are made up, so its audit finds faults: they reach the person through the flow too.
        assert (step[0] is AuditError) == (command[0] == "audit"), command
