"""Children end with their parent, also when it is killed outright."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.commands import ROOT

# The parent starts a child and tells its process id, then waits to be killed.
_TIED = """
import signal, subprocess, sys, time
from perturb.flows.engine.tied_process import tied
command = tied([sys.executable, "-c", "import time; time.sleep(99)"], signal.SIGTERM)
child = subprocess.Popen(command, start_new_session=True)
print(child.pid, flush=True)
time.sleep(99)
"""
# As Prefect's worker does it. The child writes what it received.
_FLOW_RUN = """
import os, subprocess, sys, time
child = '''
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[1]).write_text("committed"), sys.exit()))
import perturb.flows
print(flush=True)
time.sleep(99)
'''
child = subprocess.Popen(
    [sys.executable, "-c", child, sys.argv[1]],
    env=os.environ | {"PREFECT__FLOW_RUN_ID": "0"}, stdout=subprocess.PIPE, start_new_session=True
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(99)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [_TIED, _FLOW_RUN])
def test_a_child_ends_when_its_parent_is_killed(program: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    environment = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(said)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    _, living = psutil.wait_procs([child], 20)
    assert not [process for process in living if process.status() != psutil.STATUS_ZOMBIE]
    assert program is _TIED or said.read_text() == "committed"
