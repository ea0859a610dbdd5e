"""Whether a command runs its step here, or as the Prefect flow that a schedule runs.

A flow needs a server. Where none is configured Prefect starts one for each command, which takes longer than most steps.
"""

import os
import tomllib
from pathlib import Path


def runs_as_flow(asked: bool | None, *, runner: str = "threads") -> bool:
    """Return whether to run the flow: as `asked` by --flow or --no-flow, else where a Prefect server is configured.

    A step that can use a task runner is given the `runner` setting; dask and ray are reached through the flow only.
    Where the answer is yes, a server answers: one that is configured was asked, else a temporary one was started.
    Raises SettingsError where that failed.
    """
    if asked is False or not (asked or runner != "threads" or server_is_configured()):
        return False
    from perturb.flows.engine.prefect_server import check_server

    check_server()
    return True


def server_is_configured() -> bool:
    """Return whether PREFECT_API_URL is set in the environment, the active Prefect profile or Prefect's other files.

    Prefect decides; it is imported, which takes a second, only where one of these places could set the URL.
    """
    if not (os.environ.get("PREFECT_API_URL") or "PREFECT_PROFILE" in os.environ or any(map(_names_a_url, _files()))):
        return False
    from prefect.settings import PREFECT_API_URL

    import perturb.flows  # noqa: F401  (sets variables that Prefect reads when it is imported)

    return bool(PREFECT_API_URL.value())


def _files() -> tuple[Path, ...]:
    """The files that Prefect reads settings from."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    return profiles, Path(".env"), Path("prefect.toml"), Path("pyproject.toml")


def _names_a_url(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if path.name not in ("prefect.toml", "pyproject.toml"):
        return "PREFECT_API_URL" in text.upper()
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return True
    own = parsed.get("tool", {}).get("prefect", {}) if path.name == "pyproject.toml" else parsed
    return "api" in own
