"""Runs the command line as a person does: its own process, its own folder, none of this machine's settings."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def perturb(*arguments: str, cwd: Path, seconds: float = 400, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `perturb` with `arguments` in folder `cwd`; `environment` adds variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PERTURB_", "PREFECT_"))}
    added = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PERTURB_TIERS": str(ROOT / "tiers.toml")} | environment
    command = [sys.executable, "-m", "perturb", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean | added, capture_output=True, text=True, timeout=seconds)
