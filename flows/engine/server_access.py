"""Who may speak to a Prefect server that this program starts, and what that server is given.

Prefect's API starts commands: whoever may create a flow run can name the command that the worker runs. So each server
gets a password, answers pages of its own address only, and inherits no secret of the corpus, the subnet or S3.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from perturb.schemas.errors import SettingsError
from perturb.schemas.private_files import open_private

PASSWORD_FILE = "api-auth"
DEFAULT_HOME = Path(".prefect")
_USER = "perturb"
_BYTES = 32
# What a Python program needs. Everything else of the environment can hold a secret.
_PASSED = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP",
    "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8",
    "NO_PROXY", "DO_NOT_TRACK", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT",
}  # fmt: skip
_PASSED_PREFIXES = ("PREFECT_", "LC_", "XDG_")


def draw_password() -> str:
    """Return a new password of 256 bits, in the form that Prefect calls an auth string: `user:password`."""
    return f"{_USER}:{secrets.token_urlsafe(_BYTES)}"


def password_of(home: Path) -> str:
    """Return the password of the server whose folder is `home`; the first call draws it, into a file of mode 0600.

    Raises SettingsError where the file is another user's, is readable by others, is a link, or has no password.
    """
    path = home / PASSWORD_FILE
    with suppress(FileExistsError), open(path, "x", opener=open_private) as out:
        out.write(draw_password() + "\n")
    return _read_password(path)


def found_password(url: str) -> str | None:
    """Return the password of this machine's server at `url`, from `PREFECT_HOME` or `.prefect`; None where none is.

    It is returned only for a loopback address where a process of this user listens, so that no other user's program
    is told it. Raises SettingsError for a password file that others can read or write.
    """
    address = urlsplit(url)
    if address.hostname not in ("127.0.0.1", "::1", "localhost") or not address.port:
        return None
    if not any(_is_own(process) for process in listeners(address.port)):
        return None
    for home in (os.environ.get("PREFECT_HOME"), DEFAULT_HOME):
        if home and (Path(home).expanduser() / PASSWORD_FILE).exists():
            return _read_password(Path(home).expanduser() / PASSWORD_FILE)
    return None


def server_environment(environment: dict[str, str], *, password: str, port: int, host: str) -> dict[str, str]:
    """Return what the server process inherits of `environment`, with its password and the only pages that may call it.

    A page of another origin gets no answer that it can read, and without the password no request does anything.
    """
    origins = ",".join(f"http://{name}:{port}" for name in dict.fromkeys((host, "localhost")))
    return {
        **{name: value for name, value in environment.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)},
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }


def client_environment(environment: dict[str, str], *, password: str) -> dict[str, str]:
    """Return the environment of a program that speaks to the server: all of `environment`, and the password."""
    mine = {name: value for name, value in environment.items() if name != "PREFECT_SERVER_API_AUTH_STRING"}
    return {**mine, "PREFECT_API_AUTH_STRING": password}


def family(pid: int) -> list[int]:
    """Return the process id and those of its descendants; nothing where the process has ended."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def listeners(port: int) -> list[psutil.Process | None]:
    """Return the processes that listen on this TCP port; None for one that this user may not see."""
    found: dict[int | None, psutil.Process | None] = {}
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            with suppress(psutil.NoSuchProcess):
                found[connection.pid] = psutil.Process(connection.pid) if connection.pid else None
    return list(found.values())


def check_listener(port: int, pid: int) -> bool:
    """Return whether the process `pid` or a descendant listens on the port, and False where nothing does.

    Raises SettingsError that names the program where another one listens.
    """
    found = listeners(port)
    known = set(family(pid))
    for process in found:
        if process is None or process.pid not in known:
            raise SettingsError(
                f"port {port}, which Prefect's server needs, is used by {_named(process)}; end it, or choose another "
                f"port. Where it is not yours, remove {PASSWORD_FILE} in the server's folder first, and a new password "
                "is drawn"
            )
    return bool(found)


def _is_own(process: psutil.Process | None) -> bool:
    with suppress(psutil.Error):
        return process is not None and process.uids().real == os.getuid()
    return False


def _named(process: psutil.Process | None) -> str:
    if process is None:
        return "a program of another user"
    with suppress(psutil.Error):
        return f"process {process.pid} ({process.name()}) of user {process.username()}"
    return f"process {process.pid}"


def _read_password(path: Path) -> str:
    try:
        with open(path, opener=open_private, errors="replace") as file:
            status = os.fstat(file.fileno())
            text = file.read().strip()
    except OSError as error:
        raise SettingsError(
            f"the password of Prefect's server cannot be read from {path} ({error.strerror})"
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SettingsError(
            f"{path} holds the password of Prefect's server, and others may read or write it; remove it, and a new one "
            "is drawn at the next start"
        )
    user, _, password = text.partition(":")
    if not (user and password):
        raise SettingsError(f"{path} holds no `user:password`; remove it, and a new one is drawn at the next start")
    return text
