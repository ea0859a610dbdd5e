"""Prefect server, work pool, worker and deployments on one machine, as one program that ends as one.

For trying the whole operation; docs/operations.md shows the same parts under a supervisor.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from flows.stop import stopped_by_signals
from miner.local import start_local_miners
from schemas.errors import SettingsError
from schemas.settings import Settings
from subnet.keys import LOCAL_NETWORK

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
POOL = "perturb"
_START_SECONDS = 180.0
# A flow that is asked to stop still verifies and commits the round whose answers are there.
_FLOW_SECONDS = 60.0
_STOP_SECONDS = 15.0
_DEPLOYMENTS = Path("prefect.yaml")


@dataclass(frozen=True)
class Serving:
    """What runs: the server's address and where its database and logs lie."""

    url: str
    home: Path
    miners: int


def serve(
    settings: Settings, *, port: int, home: Path, local_miners: int, tell: Callable[[Serving], None] = lambda _: None
) -> None:
    """Run until SIGTERM or Ctrl-C, then stop everything that was started, the flow runs first.

    On the local network without a roster, `local_miners` reference miners are started for the flows to ask. Raises
    SettingsError where the port is taken or there are no deployments here, and when a part dies by itself.
    """
    _check_ready(port)
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        environment = _environment(settings, port, home)
        if settings.subnet.network == LOCAL_NETWORK and settings.subnet.roster is None and local_miners:
            miners = stack.enter_context(start_local_miners(local_miners, settings=settings, folder=home / "miners"))
            environment |= {"PERTURB_SUBNET__NETWORK": LOCAL_NETWORK, "PERTURB_SUBNET__ROSTER": str(miners.roster)}
        else:
            local_miners = 0
        stop = stack.enter_context(stopped_by_signals(lambda: None))
        server = stack.enter_context(
            _process("server", ["server", "start", "--host", HOST, "--port", str(port)], environment, home)
        )
        _wait(lambda: _healthy(port) or stop.asked, server, home)
        if not stop.asked:
            _run(["work-pool", "create", POOL, "--type", "process", "--overwrite"], environment, home)
            _run(["--no-prompt", "deploy", "--all"], environment, home)
            worker = stack.enter_context(
                _process("worker", ["worker", "start", "--pool", POOL, "--name", "here"], environment, home)
            )
            tell(Serving(f"http://{HOST}:{port}", home, local_miners))
            _wait(lambda: stop.asked, worker, home, seconds=None, also=server)


def _check_ready(port: int) -> None:
    if not _DEPLOYMENTS.exists():
        raise SettingsError(f"there is no {_DEPLOYMENTS} in {Path.cwd()}; run this in the project's own folder")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(f"port {port} is taken ({error.strerror}); choose another with --port") from error


def _environment(settings: Settings, port: int, home: Path) -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    return {
        **os.environ,
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(7 * 86_400),
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "INFO").replace("CRITICAL", "INFO"),
        "PERTURB_HOME": str(Path.cwd()),
        "PERTURB_STORE": settings.store if "://" in settings.store else str(Path(settings.store).absolute()),
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # The worker starts flows by the name `python`.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _run(arguments: list[str], environment: dict[str, str], home: Path) -> None:
    done = subprocess.run(_command(arguments), env=environment, capture_output=True, text=True, start_new_session=True)
    with (home / "setup.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
        raise SettingsError(f"`prefect {' '.join(arguments)}` failed: {said[0][:300]}; see {home / 'setup.log'}")


@contextmanager
def _process(
    name: str, arguments: list[str], environment: dict[str, str], home: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A part with its log; ended with everything that it started when the block ends."""
    with (home / f"{name}.log").open("ab") as log:
        # A session of its own, because a Ctrl-C at the terminal is ours to hand on, in the right order.
        process = subprocess.Popen(
            _command(arguments),
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Children first and with time to commit, then the part itself; what stays after that is killed."""
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += family[0].children(recursive=True) if family else []
    children = family[1:]
    for child in children:
        _signal(child, signal.SIGTERM)
    psutil.wait_procs(children, timeout=_FLOW_SECONDS)
    if process.poll() is None:
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for survivor in left:
        logger.warning("process %d did not end and was killed", survivor.pid)
        _signal(survivor, signal.SIGKILL)
    process.wait()


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _healthy(port: int) -> bool:
    try:
        with urlopen(f"http://{HOST}:{port}/api/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError):
        return False


def _wait(
    done: Callable[[], bool],
    process: "subprocess.Popen[bytes]",
    home: Path,
    *,
    seconds: float | None = _START_SECONDS,
    also: "subprocess.Popen[bytes] | None" = None,
) -> None:
    deadline = None if seconds is None else time.monotonic() + seconds
    while not done():
        for part in (process, also):
            if part is not None and part.poll() is not None:
                raise SettingsError(f"a part of the operation ended by itself; the logs in {home} say why")
        if deadline is not None and time.monotonic() > deadline:
            raise SettingsError(f"Prefect's server did not answer within {seconds:g} s; see {home / 'server.log'}")
        time.sleep(0.5)
