"""The temporary Prefect server: started before the first flow, used by it, and out of reach of a Ctrl-C."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

# In a process of its own: the test session has a Prefect server already.
_SCRIPT = """
import json, signal
import perturb.flows
from perturb.flows.engine.prefect_server import start_server

server = start_server()
called = []
server.when_ready(lambda: called.append(True))
server.wait()

import psutil
from prefect import flow
from prefect.client.orchestration import get_client

def servers():
    found = []
    for child in psutil.Process().children(recursive=True):
        if "prefect.server.api.server:create_app" in child.cmdline():
            found.append(child.pid)
    return found

@flow
def one() -> str:
    with get_client(sync_client=True) as client:
        return str(client.api_url)

before = servers()
address = one()
(status,) = [line for line in open(f"/proc/{before[0]}/status") if line.startswith("SigBlk")]
blocked = bool(int(status.split()[1], 16) >> (signal.SIGINT - 1) & 1)
print(json.dumps({"before": before, "after": servers(), "address": address, "blocked": blocked, "called": called}))
"""


@pytest.mark.timeout(300)
def test_the_server_that_was_started_first_serves_the_flow_and_ignores_sigint(tmp_path: Path) -> None:
    """Pins what `_start_temporary_server` expects of Prefect's SubprocessASGIServer, which is not public."""
    environment = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["before"]) == 1
    assert seen["after"] == seen["before"]
    assert seen["address"].startswith("http://127.0.0.1:")
    assert seen["blocked"]
    assert seen["called"] == [True]
    # It ended with the process that started it.
    assert not Path(f"/proc/{seen['before'][0]}").exists()
