"""The crash benchmark in its shortest form; its long forms are in docs/corpus.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_when_producers_sealers_and_collectors_are_killed(tmp_path: Path) -> None:
    command = [
        sys.executable, "benchmarks/crash.py", "--kills", "6", "--boundaries", "4", "--steps", "produce,seal,gc",
        "--scratch", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 12
    assert result["faults"] == 0
    assert result["audits"] == 2 * sum(result["by_step"].values())
