"""The Prefect server that a command's flow will use: the one that PREFECT_API_URL names, or a temporary one."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from urllib.error import URLError
from urllib.request import urlopen

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from perturb.flows.engine.signals import shield_this_thread
from perturb.schemas.errors import SettingsError


class ServerStart:
    """A Prefect server that is being started, or that already runs."""

    def __init__(self, started: "Future[None]"):
        self._started = started

    def wait(self) -> None:
        """Return when the server answers. Raises SettingsError where it did not start."""
        self._started.result()

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call `call` when the server answers, from another thread; at once where it already does."""
        self._started.add_done_callback(lambda started: call() if started.exception() is None else None)


def start_server() -> ServerStart:
    """Start Prefect's temporary server in the background, unless PREFECT_API_URL names another server.

    It takes seconds, in which the caller can load models. The server ends with this process. Raises SettingsError
    where PREFECT_API_URL is set and no server answers there.
    """
    url = PREFECT_API_URL.value()
    if url:
        _check_answers(url)
        running: Future[None] = Future()
        running.set_result(None)
        return ServerStart(running)
    started: Future[None] = Future()
    # A daemon: a command that fails while the server starts does not wait for it. Prefect ends the server at exit.
    threading.Thread(target=_start_into, args=(started,), name="prefect-server", daemon=True).start()
    return ServerStart(started)


def check_server() -> None:
    """Make sure that flows find a server. Raises SettingsError where one is set and does not answer."""
    start_server().wait()


def _check_answers(url: str) -> None:
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=10):
            return
    except (URLError, OSError, ValueError) as error:
        raise SettingsError(
            f"PREFECT_API_URL is {url}, where no Prefect server answers ({error}); start one with "
            "`prefect server start`, or unset the variable, and a temporary one is used"
        ) from error


def _start_into(started: "Future[None]") -> None:
    try:
        _start_temporary_server()
    except Exception as error:  # noqa: BLE001  (`wait` raises it)
        started.set_exception(error)
    else:
        started.set_result(None)


def _start_temporary_server() -> None:
    """Start the server that Prefect itself would start for the first flow, so that a Ctrl-C does not reach it.

    It must outlive the flow that it serves. Blocks SIGINT in the calling thread, and with it in the server. The class
    is not part of Prefect's public interface, and no public call starts this server without running a flow;
    tests/flows/engine/test_prefect_server.py notices when it changes.
    """
    from prefect.server.api.server import SubprocessASGIServer

    timeout = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    shield_this_thread()
    try:
        SubprocessASGIServer().start(timeout=timeout)
    except RuntimeError as error:
        raise SettingsError(
            f"Prefect's temporary server did not start ({error}); start one with `prefect server start` and set "
            "PREFECT_API_URL"
        ) from error
