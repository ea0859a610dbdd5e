"""The temporary Prefect server: started before the first flow, used by it, and out of reach of a Ctrl-C."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

# In a process of its own: the test session has a Prefect server already.
_SCRIPT = """
import json, os, threading, time
import perturb.flows
from perturb.flows.engine.prefect_server import start_server

server = start_server()
called = threading.Event()
server.when_ready(called.set)

import psutil
from prefect import flow, task
from prefect.client.orchestration import get_client

def servers():
    found = []
    for child in psutil.Process().children(recursive=True):
        command = " ".join(child.cmdline())
        if "prefect server start" in command or "prefect.server.api.server" in command:
            found.append(child.pid)
    return found

@flow
def one() -> str:
    return two()

@task
def two() -> str:
    with get_client(sync_client=True) as client:
        return str(client.api_url)

# It is started in the background: on a busy machine later than the imports above take.
ends = time.monotonic() + 60
while not (before := servers()) and time.monotonic() < ends:
    time.sleep(0.1)
with server.used():
    address = one()
    time.sleep(3)
    with get_client(sync_client=True) as client:
        runs = [client.read_flow_runs()[0].name, client.read_task_runs()[0].name]
seen = {"before": before, "after": servers(), "address": address, "called": called.wait(10), "runs": len(runs)}
seen["sessions"] = [os.getsid(pid) for pid in before]
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_server_that_was_started_first_serves_the_flow_and_ignores_sigint(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen["before"]) == 1
    assert seen["after"] == seen["before"]
    assert seen["address"].startswith("http://127.0.0.1:")
    assert seen["called"]
    # The server records the run and its task, and a Ctrl-C, which goes to the terminal's session, does not reach it.
    assert seen["runs"] == 2
    assert seen["sessions"] == seen["before"]
    # It ended with the process that started it.
    assert not Path(f"/proc/{seen['before'][0]}").exists()


@pytest.mark.slow
def test_a_server_that_cannot_start_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    import perturb.flows  # noqa: F401  (its environment must stand before Prefect is imported)
    from perturb.flows.engine.prefect_server import start_server
    from perturb.schemas.errors import SettingsError

    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/prefect.db")
    message = r"temporary server did not start .*`prefect server start`"
    # Without the server of other tests in this process, which would be used instead.
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(SettingsError, match=message),
        start_server().used(),
    ):
        pass
