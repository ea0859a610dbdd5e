"""The Prefect server that a command's flow will use: the one that PREFECT_API_URL names, or a temporary one."""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import BinaryIO
from urllib.error import URLError
from urllib.request import urlopen

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, temporary_settings

from perturb.schemas.errors import SettingsError

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
# A temporary server records the runs of one command. It must not start or cancel the runs of deployments, which may be
# in the same database.
_SERVICES_OFF = (
    "SCHEDULER",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "CANCELLATION_CLEANUP",
    "FOREMAN",
    "REPOSSESSOR",
    "TRIGGERS",
)


class ServerStart:
    """A Prefect server that is being started, or that already runs."""

    def __init__(self, url: str, answers: "Future[None]"):
        self._url = url
        self._answers = answers

    @contextmanager
    def used(self) -> Iterator[None]:
        """Wait until the server answers, and have flows use it for as long as the block lasts.

        Raises SettingsError where it did not start.
        """
        self._answers.result()
        with temporary_settings({PREFECT_API_URL: self._url}):
            yield

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call `call` when the server answers, from another thread; at once where it already does."""
        self._answers.add_done_callback(lambda answers: call() if answers.exception() is None else None)


def start_server() -> ServerStart:
    """Start a temporary Prefect server in the background, unless PREFECT_API_URL names another server.

    It takes seconds, in which the caller can load models. The server ends with this process, and ignores a Ctrl-C: it
    must outlive the flow that it serves. Raises SettingsError where PREFECT_API_URL is set and no server answers there.
    """
    answers: Future[None] = Future()
    url = PREFECT_API_URL.value()
    if url:
        _check_answers(url)
        answers.set_result(None)
        return ServerStart(url, answers)
    port = _free_port()
    output = tempfile.TemporaryFile()  # noqa: SIM115  (the server writes to it until it ends)
    process = _start_process(port, output)
    atexit.register(_stop, process)
    url = f"http://{_HOST}:{port}/api"
    # A daemon: a command that fails while the server starts does not wait for it.
    threading.Thread(target=_await, args=(process, url, output, answers), name="prefect-server", daemon=True).start()
    return ServerStart(url, answers)


def check_server() -> None:
    """Make sure that the flows of this process find a server. Raises SettingsError where one does not answer."""
    used = ExitStack()
    used.enter_context(start_server().used())
    atexit.register(used.close)


def _check_answers(url: str) -> None:
    try:
        _ask(url)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"PREFECT_API_URL is {url}, where no Prefect server answers ({error}); start one with "
            "`prefect server start`, or unset the variable, and a temporary one is used"
        ) from error


def _ask(url: str) -> None:
    with urlopen(f"{url.rstrip('/')}/health", timeout=10):
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _start_process(port: int, output: BinaryIO) -> "subprocess.Popen[bytes]":
    arguments = ["server", "start", "--host", _HOST, "--port", str(port)]
    switched_off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _SERVICES_OFF}
    return subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments],
        env={**os.environ, "PREFECT_SERVER_UI_ENABLED": "false", **switched_off},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # A session of its own, so that a Ctrl-C at the terminal does not reach it.
        start_new_session=True,
    )


def _await(process: "subprocess.Popen[bytes]", url: str, output: BinaryIO, answers: "Future[None]") -> None:
    deadline = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _ask(url)
        except (URLError, OSError):
            time.sleep(_POLL_SECONDS)
        else:
            answers.set_result(None)
            return
    output.seek(0)
    last = output.read().decode(errors="replace").strip().splitlines()[-1:] or ["(no output)"]
    answers.set_exception(
        SettingsError(
            f"Prefect's temporary server did not start ({last[0][:300]}); start one with `prefect server start` and "
            "set PREFECT_API_URL"
        )
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
