"""The development server behind `perturb serve`: Prefect server, work pool, worker and deployments as one program.

For trying the whole operation on one machine. In production systemd or compose runs the same parts, as in
docs/operations.md.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from perturb.flows.engine.server_access import check_listener, client_environment, password_of, server_environment
from perturb.flows.engine.signals import Stop, stopped_by_signals
from perturb.flows.engine.tied_process import END_SECONDS, tied
from perturb.miner.local import start_local_miners
from perturb.schemas.errors import SettingsError
from perturb.schemas.import_root import import_root
from perturb.schemas.private_files import is_private, make_private_folder, open_private
from perturb.schemas.settings import Settings
from perturb.subnet.keys import LOCAL_NETWORK

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
POOL = "perturb"
_START_SECONDS = 180.0
_STOP_SECONDS = 15.0
_PAUSE_SECONDS = 0.5
_POLL_SECONDS = 0.1
_STARTS_PER_MINUTE = 4
_DEPLOYMENTS = Path("prefect.yaml")


@dataclass(frozen=True)
class Serving:
    """What runs: the server's address, the folder of its database and logs, and the number of local miners."""

    url: str
    home: Path
    miners: int


def serve(
    settings: Settings, *, port: int, home: Path, local_miners: int, tell: Callable[[Serving], None] = lambda _: None
) -> None:
    """Run until SIGTERM or Ctrl-C, then stop everything that was started, the flow runs first.

    A second signal while it stops ends the waiting: everything is killed. When this process is killed outright, server
    and worker are ended by the system, and flow runs end as on SIGTERM.

    `tell` is called once the parts run. On the local network without a roster, `local_miners` reference miners are
    started for the flows to ask. A part that dies is started again. Raises SettingsError where the port is taken, also
    by another program in the moment of a restart, where there are no deployments here, and when a part dies too often.

    The server asks for a password, which is drawn once for each `home`. Only the worker inherits this process' secrets.
    """
    _check_ready(port)
    home = home.absolute()
    make_private_folder(home)
    if not is_private(home):
        logger.warning("%s can be read by other users; `chmod 700 %s` closes it", home, home)
    password = password_of(home)
    with ExitStack() as stack:
        environment = client_environment(_environment(settings, port, home), password=password)
        if settings.subnet.network == LOCAL_NETWORK and settings.subnet.roster is None and local_miners:
            miners = stack.enter_context(start_local_miners(local_miners, settings=settings, folder=home / "miners"))
            environment |= {"PERTURB_SUBNET__NETWORK": LOCAL_NETWORK, "PERTURB_SUBNET__ROSTER": str(miners.roster)}
        else:
            local_miners = 0
        hurry = threading.Event()
        stop = stack.enter_context(
            stopped_by_signals(lambda: None, message="stopping the flow runs first", again=hurry.set)
        )

        def start(name: str, environment: dict[str, str], *arguments: str) -> _Part:
            part = _Part(name, list(arguments), environment, home, hurry)
            stack.callback(part.stop)
            return part

        servers_own = server_environment(environment, password=password, port=port, host=HOST)
        server = start("server", servers_own, "server", "start", "--host", HOST, "--port", str(port))
        _await_server(server, port, stop, home, first=True)
        _register(environment, home, stop)
        if stop.requested:
            return
        worker = start("worker", environment, "worker", "start", "--pool", POOL, "--name", "here")
        tell(Serving(f"http://{HOST}:{port}", home, local_miners))
        while not stop.requested:
            if server.watch():
                # Until the port is the new server's, whatever listens there could give the worker its orders.
                with worker.suspended():
                    _await_server(server, port, stop, home)
                # Its database may be lost too. A deployment that is registered already stays as it is.
                _register(environment, home, stop)
            worker.watch()
            time.sleep(_PAUSE_SECONDS)


def _register(environment: dict[str, str], home: Path, stop: Stop) -> None:
    """Create the work pool and the deployments, unless the end is requested before or meanwhile."""
    for arguments in (
        ["work-pool", "create", POOL, "--type", "process", "--overwrite"],
        ["--no-prompt", "deploy", "--all"],
    ):
        if not stop.requested:
            _run(arguments, environment, home, stop)


def _await_server(server: "_Part", port: int, stop: Stop, home: Path, *, first: bool = False) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not stop.requested and not (check_listener(port, server.pid) and _healthy(port)):
        if first and server.ended():
            raise SettingsError(f"Prefect's server did not start: {_last_line(home / 'server.log')}")
        server.watch()
        if time.monotonic() > deadline:
            raise SettingsError(
                f"Prefect's server did not answer within {_START_SECONDS:g} s; see {home / 'server.log'}"
            )
        time.sleep(_PAUSE_SECONDS)


def _check_ready(port: int) -> None:
    if not _DEPLOYMENTS.exists():
        raise SettingsError(
            f"there is no {_DEPLOYMENTS} in {Path.cwd()}; run this in a folder that `perturb init` wrote"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsError(f"port {port} is taken ({error.strerror}); choose another with --port") from error


def _environment(settings: Settings, port: int, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(7 * 86_400),
        "PREFECT_LOGGING_LEVEL": os.environ.get("PREFECT_LOGGING_LEVEL", "INFO").replace("CRITICAL", "INFO"),
        "PERTURB_HOME": str(Path.cwd()),
        "PERTURB_STORE": settings.store_name,
        "PYTHONPATH": os.pathsep.join([import_root(), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # The worker starts flows by the name `python`.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _command(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _run(arguments: list[str], environment: dict[str, str], home: Path, stop: Stop) -> None:
    path = home / "setup.log"
    with open(path, "ab", opener=open_private) as log:
        process = subprocess.Popen(
            tied(_command(arguments), signal.SIGKILL),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None and not stop.requested:
        time.sleep(_POLL_SECONDS)
    if stop.requested:
        process.kill()
        process.wait()
    elif process.returncode:
        raise SettingsError(f"`prefect {' '.join(arguments)}` failed: {_last_line(path)}")


def _last_line(log: Path) -> str:
    """The last line that is not empty, and the name of the file."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip(" │╭╮╰╯─\t")]
    return f"{(lines or ['(no output)'])[-1][:300]}; see {log}"


class _Part:
    """One program that is kept running: when it dies, its orphans are ended and it is started again."""

    def __init__(
        self, name: str, arguments: list[str], environment: dict[str, str], home: Path, hurry: threading.Event
    ):
        self._hurry = hurry
        self._name, self._arguments, self._environment = name, arguments, environment
        self._log = home / f"{name}.log"
        self._children: list[psutil.Process] = []
        self._starts: list[float] = []
        self._start()

    def _start(self) -> None:
        self._starts = [moment for moment in self._starts if moment > time.monotonic() - 60] + [time.monotonic()]
        if len(self._starts) > _STARTS_PER_MINUTE:
            raise SettingsError(
                f"the {self._name} ended {_STARTS_PER_MINUTE} times within a minute; {self._log} says why"
            )
        with open(self._log, "ab", opener=open_private) as log:
            self._process = subprocess.Popen(
                # At once, not with patience: a worker that is asked to end waits for its flow runs. Those see that it
                # is gone and commit their last round (see `perturb.flows`).
                tied(_command(self._arguments), signal.SIGKILL),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The server's database holds parameters, artifacts and logs. Flows, which the worker starts, write the
                # corpus, whose rights are the operator's to choose.
                umask=0o077 if self._name == "server" else -1,
                # A session of its own: this process passes a Ctrl-C on, in the right order.
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Return whether the part's process has ended."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """The process id of the part."""
        return self._process.pid

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop the part, not its children, for as long as the block lasts; an error in the block ends the part."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        except BaseException:
            self._process.kill()
            raise
        self._process.send_signal(signal.SIGCONT)

    def watch(self) -> bool:
        """Return whether the part had died and was started again. Raises SettingsError when it dies too often."""
        if self._process.poll() is None:
            self._remember_children()
            return False
        logger.warning("the %s ended with %s; starting it again", self._name, self._process.returncode)
        self._end_children()
        self._start()
        return True

    def stop(self) -> None:
        """Stop the children, with time to commit, then the part itself; what does not end in time is killed."""
        if self._process.poll() is None:
            self._remember_children()
        self._end_children()
        if not self.ended():
            logger.warning("waiting for the %s to end, %g s at most", self._name, _STOP_SECONDS)
        self._process.terminate()
        self._wait_until(self.ended, _STOP_SECONDS)
        if not self.ended():
            logger.warning("the %s did not end and was killed", self._name)
            self._process.kill()
            self._process.wait()

    def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for `condition`, at most so long, and not after a second signal."""
        deadline = time.monotonic() + seconds
        while not condition() and time.monotonic() < deadline and not self._hurry.is_set():
            time.sleep(_POLL_SECONDS)

    def _remember_children(self) -> None:
        # A dead part has no children any more, so those that were seen before are kept for as long as they live.
        living = {child for child in self._children if _lives(child)}
        self._children = [*(living | set(psutil.Process(self._process.pid).children()))]

    def _end_children(self) -> None:
        if self._children:
            logger.warning(
                "waiting for %d processes of the %s to end, %g s at most: %s",
                len(self._children),
                self._name,
                END_SECONDS,
                ", ".join(map(_describe, self._children)),
            )
        # Their own children end with them: a flow ends its decoders and local miners.
        for child in self._children:
            _signal(child, signal.SIGTERM)
        self._wait_until(lambda: not any(map(_lives, self._children)), END_SECONDS)
        for survivor in filter(_lives, self._children):
            logger.warning("process %d did not end and was killed", survivor.pid)
            _signal(survivor, signal.SIGKILL)
        self._children = []


def _describe(process: psutil.Process) -> str:
    """Return the process id, and for a flow run its command: `prefect.flow_engine` and the like."""
    try:
        command = process.cmdline()
    except psutil.Error:
        command = []
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else " ".join(command[:1])
    return f"{process.pid} ({module})" if module else str(process.pid)


def _lives(process: psutil.Process) -> bool:
    """Return whether the process runs. A container without an init process keeps ended orphans as zombies."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
