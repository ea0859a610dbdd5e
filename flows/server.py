"""The Prefect server that a command's flow will use: the one that the environment names, or one of its own."""

import signal
import threading
from urllib.error import URLError
from urllib.request import urlopen

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from schemas.errors import SettingsError


def check_server() -> None:
    """Makes sure that flows find a server. Raises SettingsError where one is set and doesn't answer."""
    url = PREFECT_API_URL.value()
    if not url:
        _start_own_server()
        return
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=10):
            return
    except (URLError, OSError, ValueError) as error:
        raise SettingsError(
            f"PREFECT_API_URL is {url}, where no Prefect server answers ({error}); start one with "
            "`prefect server start`, or unset the variable, and a temporary one is used"
        ) from error


def _start_own_server() -> None:
    """Starts Prefect's temporary server so that a Ctrl-C does not reach it: it must outlive the flow that it serves.

    A terminal sends the signal to everybody in the foreground. What a thread blocks, the processes that it starts
    inherit as blocked; this thread of ours lives only for that, and the main thread goes on hearing signals.
    """
    failed: list[BaseException] = []

    def start() -> None:
        from prefect.server.api.server import SubprocessASGIServer

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            SubprocessASGIServer().start(timeout=PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=start, name="prefect-server", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise SettingsError(
            f"Prefect's temporary server did not start ({failed[0]}); start one with `prefect server start` and set "
            "PREFECT_API_URL"
        ) from failed[0]
