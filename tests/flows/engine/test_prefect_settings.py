"""A machine that others have set up for Prefect: what stands in the way is named in one sentence, or left alone."""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from perturb.schemas.proxies import exempt_loopback
from tests.support.commands import ROOT

_START = """
from perturb.flows.engine.prefect_server import start_server
from perturb.schemas.errors import SettingsError
try:
    start_server()
    print("started")
except SettingsError as error:
    print(error)
"""


def start(folder: Path, **environment: str) -> str:
    """What starting a server says, in a process of its own: Prefect reads its settings once."""
    base = {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-c", _START]
    ran = subprocess.run(
        command, cwd=folder, env=base | environment, capture_output=True, text=True, timeout=200, check=True
    )
    return ran.stdout.strip()


PROFILE = 'active = "work"\n[profiles.work]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'


@pytest.mark.slow
def test_a_profile_of_another_project_is_left_alone_unless_it_is_named(tmp_path: Path) -> None:
    others = tmp_path / "home" / ".prefect"
    others.mkdir(parents=True)
    (others / "profiles.toml").write_text(PROFILE)
    assert start(tmp_path) == "started"
    assert (tmp_path / "home" / ".cache" / "perturb" / "prefect").is_dir()
    said = start(tmp_path, PREFECT_HOME=str(others))
    assert f"the profile 'work' in {others / 'profiles.toml'}; remove it there" in said


@pytest.mark.parametrize("name", ["prefect.toml", ".env", "home/.cache/perturb/prefect/profiles.toml"])
def test_a_file_that_prefect_cannot_read_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"[\xff")
    assert start(tmp_path).startswith(f"{path}, from which Prefect reads settings, cannot be read (")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "HOME",
            "/dev/null",
            "/dev/null/.cache/perturb/prefect cannot be written to (Not a directory); set PREFECT_HOME",
        ),
        ("PREFECT_SERVER_API_PORT", "abc", "valid integer"),
        ("ALL_PROXY", "socks://127.0.0.1:1080/", "accepted: addresses that begin with http://"),
        ("PREFECT_API_URL", "ttp:/broken", "no Prefect server answers (Request URL has an unsupported protocol"),
    ],
)
def test_what_stands_in_the_way_is_named(variable: str, value: str, said: str, tmp_path: Path) -> None:
    assert said in start(tmp_path, **{variable: value})


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>sign in</html>")


@pytest.mark.slow
def test_another_program_at_the_servers_address_and_one_that_hangs(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Page) as page, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        url = "http://127.0.0.1:{}/api"
        said = start(tmp_path, PREFECT_API_URL=url.format(page.server_port))
        assert "another program answers, not Prefect's API" in said
        assert "(timed out)" in start(tmp_path, PREFECT_API_URL=url.format(silent.getsockname()[1]))
        page.shutdown()


def test_loopback_is_added_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("no_proxy", "10.0.0.1 example.org")
    exempt_loopback()
    exempt_loopback()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "10.0.0.1,example.org,127.0.0.1,localhost,::1"
    monkeypatch.setenv("no_proxy", "*")
    exempt_loopback()
    assert os.environ["no_proxy"] == "*"
