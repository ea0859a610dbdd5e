"""Local miners: they start, answer, and are gone with whoever started them, however that ended."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perturb.miner.local import start_local_miners
from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import SettingsError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.settings import Settings
from perturb.subnet.keys import load_keypair
from perturb.subnet.neurons import find_neurons
from perturb.subnet.transport import collect

ROOT = Path(__file__).parents[2]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie has ended; only its parent hasn't looked yet.
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def gone(pids: list[int], *, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_miners_answer_in_processes_of_their_own_and_end(
    make_task: Callable[..., Task], photo: Pixels, tmp_path: Path
) -> None:
    from datetime import UTC, datetime

    settings = Settings()
    origin = Origin(source="sample", source_id="1", clean_confidence=1, clean_margin=1, judge="none")
    with start_local_miners(("bad", "bad"), settings=settings, folder=tmp_path) as miners:
        assert len({os.getpid(), *miners.pids}) == 3
        found = find_neurons(miners.subnet, own_hotkey=load_keypair(settings.subnet).ss58_address)
        assert found.neurons == miners.neurons
        bodies = []
        for number in range(2):
            challenge = Challenge("r", datetime.now(UTC), make_task(number=number), origin, encode_png(photo))
            responses = asyncio.run(
                collect(challenge, found.neurons, load_keypair(miners.subnet), settings=miners.subnet)
            )
            assert [response.failure for response in responses] == [None, None]
            bodies += [response.body for response in responses]
    assert gone(list(miners.pids))
    # Both misdeeds are there: a picture that goes too far, and no picture at all.
    assert {body.startswith(b"\x89PNG") for body in bodies} == {True, False}


def test_no_miner_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "from perturb.miner.local import start_local_miners\n"
        "from perturb.schemas.settings import Settings\n"
        "with start_local_miners(('bad', 'bad', 'bad'), settings=Settings()) as miners:\n"
        # A fork holds our end of the pipe open, as worker processes may: the miners must not depend on it alone.
        "    fork = os.fork()\n"
        "    if fork: print(fork, *miners.pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    fork, *pids = map(int, parent.stdout.readline().split())
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        assert gone(pids)
    finally:
        os.kill(fork, signal.SIGKILL)
        parent.stdout.close()


def test_a_port_in_use_is_said_plainly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=rf"port {port} on 127\.0\.0\.1 cannot be used: .*in use"),
            start_local_miners(("bad",), settings=Settings(), ports=[port]),
        ):
            pass


@pytest.mark.parametrize(
    ("attacks", "options", "message"),
    [
        (0, {}, "accepted: 1 to 5"),
        (6, {}, "accepted: 1 to 5"),
        (("bad", "bad"), {"ports": [1]}, "1 ports for 2 miners"),
        (("bad",), {"ports": [70_000]}, "port 70000"),
    ],
)
def test_what_cannot_be_started_is_said_plainly(attacks: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message), start_local_miners(attacks, settings=Settings(), **options):
        pass
