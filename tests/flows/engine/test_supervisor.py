"""The supervisor behind `perturb serve`: what dies is started again, and nothing outlives it."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import load_settings
from tests.support.commands import perturb

# A part with one child; the child takes a moment to end, as a flow does that commits its last round.
PART = """
import subprocess, sys, time
child = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit()))
time.sleep(99)
'''
subprocess.Popen([sys.executable, "-c", child])
time.sleep(99)
"""


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["object"]:
    from perturb.flows.engine import supervisor as serve

    monkeypatch.setattr(serve, "_command", lambda arguments: [sys.executable, *arguments])
    running = serve._Part("part", ["-c", PART], dict(os.environ), tmp_path, threading.Event())
    yield running
    running.stop()


def lives(process: psutil.Process) -> bool:
    """A zombie that nobody reaps has ended all the same."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(part: object) -> list[psutil.Process]:
    """The part and its child, once the child is there."""
    wait_for(lambda: part.watch() or part._children)  # type: ignore[attr-defined]
    return [psutil.Process(part._process.pid), *part._children]  # type: ignore[attr-defined]


def test_a_killed_part_is_replaced_and_its_orphan_ended(part: object) -> None:
    first = family(part)
    os.kill(first[0].pid, signal.SIGKILL)
    wait_for(lambda: part.watch())  # type: ignore[attr-defined]
    wait_for(lambda: not any(map(lives, first)), 10)
    second = family(part)
    assert second[0].pid != first[0].pid
    part.stop()  # type: ignore[attr-defined]
    wait_for(lambda: not any(map(lives, second)), 10)


def test_a_part_that_cannot_live_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from perturb.flows.engine import supervisor as serve

    monkeypatch.setattr(serve, "_command", lambda arguments: [sys.executable, *arguments])
    dying = serve._Part("worker", ["-c", "raise SystemExit(3)"], dict(os.environ), tmp_path, threading.Event())
    with pytest.raises(SettingsError, match=r"the worker ended 4 times within a minute; .*worker\.log says why"):
        wait_for(lambda: dying.watch() and False)


# Neither the part nor its child ends when it is asked to.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(99)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(99)
"""


@pytest.mark.slow
def test_a_second_signal_ends_the_waiting_and_leaves_no_orphan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from perturb.flows.engine import supervisor as serve
    from perturb.flows.engine.signals import stopped_by_signals

    monkeypatch.setattr(serve, "_command", lambda arguments: [sys.executable, *arguments])
    hurry = threading.Event()
    with stopped_by_signals(lambda: None, again=hurry.set) as stop:
        stubborn = serve._Part("part", ["-c", STUBBORN], dict(os.environ), tmp_path, hurry)
        processes = family(stubborn)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: stop.requested)
        second = threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM))
        second.start()
        begun = time.monotonic()
        stubborn.stop()
        # Past this block nothing catches it.
        second.cancel()
        second.join()
    assert 0.9 < time.monotonic() - begun < 10
    wait_for(lambda: not any(map(lives, processes)), 10)


def test_serve_refuses_a_taken_port_and_a_folder_without_deployments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from perturb.flows.engine.supervisor import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} is taken"):
            serve(load_settings(), port=port, home=tmp_path / "home", local_miners=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"there is no prefect\.yaml"):
        serve(load_settings(), port=port, home=tmp_path / "home", local_miners=0)
    assert not (tmp_path / "home").exists()


def test_every_deployment_names_a_flow_that_takes_its_parameters() -> None:
    import yaml
    from prefect.flows import load_flow_from_entrypoint

    from perturb.tasks.monitor.status import delays

    root = Path(__file__).parents[3]
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    assert {item["parameters"]["tiers"][0] for item in deployments if item["name"].startswith("export-")} == set(
        delays(root / "tiers.toml")
    )
    for item in deployments:
        flow = load_flow_from_entrypoint(item["entrypoint"])
        flow.validate_parameters(item["parameters"])
        # A deployment of one's own in a checkout may name the file instead.
        _, folder, module, name = item["entrypoint"].split(".")
        assert load_flow_from_entrypoint(str(root / folder / f"{module}.py:{name}")).name == flow.name
        assert item["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
        assert item["work_pool"]["name"] == "perturb"


@pytest.mark.slow
def test_a_server_that_is_away_is_named_before_anything_is_begun(tmp_path: Path) -> None:
    ran = perturb("seal", cwd=tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "PREFECT_API_URL is http://127.0.0.1:9/api" in ran.stderr
    assert "comes from the environment; unset it" in ran.stderr
    assert "prefect server start" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.returncode == 2
