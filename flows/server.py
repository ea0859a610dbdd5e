"""Whether the Prefect server that the environment names is there, asked before a flow is begun."""

from urllib.error import URLError
from urllib.request import urlopen

from prefect.settings import PREFECT_API_URL

from schemas.errors import SettingsError


def check_server() -> None:
    """Raises SettingsError where a server is set and doesn't answer; without one a flow starts its own for itself."""
    url = PREFECT_API_URL.value()
    if not url:
        return
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=10):
            return
    except (URLError, OSError, ValueError) as error:
        raise SettingsError(
            f"PREFECT_API_URL is {url}, where no Prefect server answers ({error}); start one with "
            "`prefect server start`, or unset the variable, and a temporary one is used"
        ) from error
