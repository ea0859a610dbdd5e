"""The Prefect server that a command's flow will use: the one that the environment names, or one of its own."""

from urllib.error import URLError
from urllib.request import urlopen

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from perturb.flows.engine.signals import deaf_to_interrupts
from perturb.schemas.errors import SettingsError


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
    """Starts Prefect's temporary server so that a Ctrl-C does not reach it: it must outlive the flow that it serves."""
    from prefect.server.api.server import SubprocessASGIServer

    timeout = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    try:
        deaf_to_interrupts(lambda: SubprocessASGIServer().start(timeout=timeout))
    except RuntimeError as error:
        raise SettingsError(
            f"Prefect's temporary server did not start ({error}); start one with `prefect server start` and set "
            "PREFECT_API_URL"
        ) from error
