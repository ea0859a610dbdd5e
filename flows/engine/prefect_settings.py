"""Where Prefect takes its settings from, and whether they can be read."""

import os
import tomllib
from pathlib import Path

from perturb.schemas.errors import SettingsError

_URL = "PREFECT_API_URL"
_TOML = ("prefect.toml", "pyproject.toml")


def server_is_configured() -> bool:
    """Return whether PREFECT_API_URL is set in the environment, the active Prefect profile or Prefect's other files.

    Prefect decides; it is imported, which takes a second, only where one of these places could set the URL. Raises
    SettingsError where Prefect cannot read its settings.
    """
    if not (os.environ.get(_URL) or "PREFECT_PROFILE" in os.environ or any(map(_names_a_url, _files()))):
        return False
    load_prefect()
    from prefect.settings import PREFECT_API_URL

    return bool(PREFECT_API_URL.value())


def load_prefect() -> None:
    """Import Prefect, which reads its settings then.

    Raises SettingsError that names the file or the variable where that fails.
    """
    try:
        import prefect.main  # noqa: F401
    # Each source of settings raises errors of its own kind.
    except Exception as error:
        check_files()
        places = " or ".join(["PREFECT_* variables", *(str(path) for path in _files() if path.exists())])
        raise SettingsError(
            f"Prefect cannot read its settings ({short(error)}); correct them in {places}, or set PREFECT_HOME "
            "to an empty folder"
        ) from error


def check_files() -> None:
    """Raise SettingsError that names the first of Prefect's files that cannot be read."""
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".toml":
                tomllib.loads(text)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{path.absolute()}, from which Prefect reads settings, cannot be read ({short(error)}); correct or "
                "remove it"
            ) from error


def place_of_url() -> str:
    """Return where the value of PREFECT_API_URL comes from, and how to remove it."""
    if os.environ.get(_URL):
        return "the environment; unset it"
    profiles, *others = _files()
    for path in others:
        if _names_a_url(path):
            return f"{path.absolute()}; remove it there"
    from prefect.context import get_settings_context

    return f"the profile {get_settings_context().profile.name!r} in {profiles}; remove it there"


def short(error: BaseException) -> str:
    """Return the error's text on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _files() -> tuple[Path, ...]:
    """The files that Prefect reads settings from, the profiles first."""
    home = _expanded(Path(os.environ.get("PREFECT_HOME") or "~/.prefect"))
    profiles = _expanded(Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml"))
    return profiles, Path(".env"), Path("prefect.toml"), Path("pyproject.toml")


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(
            f"Prefect's folder {path} has no meaning here: this user has no home folder; set PREFECT_HOME"
        ) from error


def _names_a_url(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    if path.name not in _TOML:
        return _URL in text.upper()
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return True
    own = parsed.get("tool", {}).get("prefect", {}) if path.name == "pyproject.toml" else parsed
    return "api" in own
