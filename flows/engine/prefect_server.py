"""The Prefect server that a command's flow will use: the one that PREFECT_API_URL names, or a temporary one."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from perturb.flows.engine.prefect_settings import load_prefect, place_of_url, short
from perturb.flows.engine.server_access import (
    PASSWORD_FILE,
    check_listener,
    draw_password,
    found_password,
    server_environment,
)
from perturb.flows.engine.tied_process import tied
from perturb.schemas.errors import SettingsError
from perturb.schemas.private_files import make_private_folder

_HOST = "127.0.0.1"
_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
# How long a server that is configured may take for one answer.
_ANSWER_SECONDS = 8.0
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
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

    def __init__(self, url: str, answers: "Future[None]", *, password: str | None):
        self._url = url
        self._answers = answers
        self._password = password

    @contextmanager
    def used(self) -> Iterator[None]:
        """Wait until the server answers, and have flows use it for as long as the block lasts.

        Raises SettingsError where it did not start.
        """
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

        self._answers.result()
        changed = {PREFECT_API_URL: self._url}
        if self._password is not None:
            changed[PREFECT_API_AUTH_STRING] = self._password
        with temporary_settings(changed):
            yield

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call `call` when the server answers, from another thread; at once where it already does."""
        self._answers.add_done_callback(lambda answers: call() if answers.exception() is None else None)


def start_server() -> ServerStart:
    """Start a temporary Prefect server in the background, unless PREFECT_API_URL names another server.

    It takes seconds, in which the caller can load models. The server ends with this process, however that ends, and
    ignores a Ctrl-C: it must outlive the flow that it serves. Raises SettingsError where Prefect cannot read its
    settings or write to its folder, and where PREFECT_API_URL is set and no server answers there. Call it from the main
    thread, before anything else of Prefect is imported.
    """
    load_prefect()
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

    _check_proxies()
    answers: Future[None] = Future()
    url = PREFECT_API_URL.value()
    if url:
        password = PREFECT_API_AUTH_STRING.value() or found_password(url)
        _check_answers(url, password)
        answers.set_result(None)
        return ServerStart(url, answers, password=password)
    _check_home()
    port = _free_port()
    output = tempfile.TemporaryFile()  # noqa: SIM115  (the server writes to it until it ends)
    password = draw_password()
    process = _start_process(port, output, password)
    atexit.register(_stop, process)
    url = f"http://{_HOST}:{port}/api"
    # A daemon: a command that fails while the server starts does not wait for it.
    threading.Thread(target=_await, args=(process, url, output, answers), name="prefect-server", daemon=True).start()
    return ServerStart(url, answers, password=password)


def check_server() -> None:
    """Make sure that the flows of this process find a server. Raises SettingsError where one does not answer."""
    used = ExitStack()
    used.enter_context(start_server().used())
    atexit.register(used.close)


def _check_proxies() -> None:
    """Prefect's client reads the proxy variables when it is made, also where no request goes through a proxy."""
    import httpx

    try:
        httpx.Client().close()
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        named = [name for name in sorted(os.environ) if name.lower() in _PROXIES and os.environ[name]]
        raise SettingsError(
            f"a proxy cannot be used ({short(error)}); accepted: addresses that begin with http://, https://, "
            f"socks5:// or socks5h://; correct or unset {' or '.join(named)}"
        ) from error


def _check_answers(url: str, password: str | None) -> None:
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    changed = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password}
    try:
        with (
            temporary_settings(changed),
            get_client(httpx_settings={"timeout": _ANSWER_SECONDS}, sync_client=True) as client,
        ):
            if failed := client.api_healthcheck():
                raise failed
            client.raise_for_api_version_mismatch()
    except (httpx.HTTPError, httpx.InvalidURL, PrefectException, OSError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        found = "another program answers, not Prefect's API" if isinstance(cause, ValueError) else short(cause)
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in (401, 403):
            advice = (
                "PREFECT_API_AUTH_STRING or PREFECT_API_KEY must hold its password; `perturb serve` keeps its own in "
                f"{PASSWORD_FILE} of its folder (.prefect), which is found there and in PREFECT_HOME"
            )
        else:
            advice = "start one with `prefect server start` (its address ends with /api)"
        raise SettingsError(
            f"PREFECT_API_URL is {url}, where no Prefect server answers ({found}); {advice}. The value comes "
            f"from {place_of_url()}, and a temporary server is used"
        ) from error


def _check_home() -> None:
    from prefect.settings import PREFECT_HOME

    home: Path = PREFECT_HOME.value()
    try:
        make_private_folder(home)
        with tempfile.TemporaryFile(dir=home):
            return
    except OSError as error:
        raise SettingsError(
            f"Prefect's folder {home} cannot be written to ({error.strerror}); set PREFECT_HOME, or "
            "PERTURB_CACHE_DIR, below which it is by default, to a folder that you may write to"
        ) from error


def _ask(url: str) -> None:
    with urlopen(f"{url.rstrip('/')}/health", timeout=10):
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _start_process(port: int, output: BinaryIO, password: str) -> "subprocess.Popen[bytes]":
    arguments = ["server", "start", "--host", _HOST, "--port", str(port)]
    switched_off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _SERVICES_OFF}
    return subprocess.Popen(
        tied([sys.executable, "-m", "prefect", *arguments], signal.SIGTERM),
        env={
            **server_environment(dict(os.environ), password=password, port=port, host=_HOST),
            "PREFECT_SERVER_UI_ENABLED": "false",
            **switched_off,
        },
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # A session of its own, so that a Ctrl-C at the terminal does not reach it.
        start_new_session=True,
        # Its database holds parameters, artifacts and logs of the runs.
        umask=0o077,
    )


def _await(process: "subprocess.Popen[bytes]", url: str, output: BinaryIO, answers: "Future[None]") -> None:
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _ask(url)
        except (URLError, OSError):
            time.sleep(_POLL_SECONDS)
        else:
            try:
                check_listener(urlsplit(url).port or 0, process.pid)
            except SettingsError as error:
                answers.set_exception(error)
            else:
                answers.set_result(None)
            return
    if process.poll() is None:
        cause = (
            f"did not answer within {seconds} s; a busy machine needs a larger "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
        )
    else:
        output.seek(0)
        last = output.read().decode(errors="replace").strip().splitlines()[-1:] or ["(no output)"]
        cause = f"did not start ({last[0][:300]})"
    answers.set_exception(
        SettingsError(
            f"Prefect's temporary server {cause}; its database and settings are in {PREFECT_HOME.value()} "
            "(PREFECT_HOME) and in PREFECT_* variables; or start a server with `prefect server start` and set "
            "PREFECT_API_URL"
        )
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
