"""Prefect's API starts commands: it asks for a password, answers its own pages only, and its server has no secrets."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perturb.flows.engine.server_access import (
    PASSWORD_FILE,
    check_listener,
    found_password,
    password_of,
    server_environment,
)
from perturb.schemas.errors import SettingsError
from tests.support.commands import ROOT

SECRETS = {
    "PERTURB_SUBNET__WALLET_PASSWORD": "wallet-secret",
    "AWS_SECRET_ACCESS_KEY": "s3-secret",
    "HF_TOKEN": "hub-secret",
}


def test_the_password_is_drawn_once_and_is_this_users_alone(tmp_path: Path) -> None:
    drawn = password_of(tmp_path)
    file = tmp_path / PASSWORD_FILE
    assert len(drawn.partition(":")[2]) >= 43
    assert file.stat().st_mode & 0o777 == 0o600
    assert password_of(tmp_path) == drawn
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="others may read or write it; remove it"):
        password_of(tmp_path)
    file.unlink()
    assert password_of(tmp_path) != drawn
    target = tmp_path / "elsewhere"
    file.rename(target)
    file.symlink_to(target)
    with pytest.raises(SettingsError, match="cannot be read"):
        password_of(tmp_path)


def test_the_server_inherits_no_secret() -> None:
    given = server_environment({**SECRETS, "PATH": "/bin", "PREFECT_HOME": "/x"}, password="a:b", port=4, host="h")
    assert not set(SECRETS) & set(given)
    assert (given["PATH"], given["PREFECT_HOME"], given["PREFECT_SERVER_API_AUTH_STRING"]) == ("/bin", "/x", "a:b")
    assert given["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://h:4,http://localhost:4"


@pytest.fixture
def foreign() -> Iterator[tuple[int, int]]:
    """A program that listens on a port of this machine: its port and process id."""
    code = (
        "import socket, time; server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.kill()


def test_only_the_server_that_was_started_is_taken_for_it(foreign: tuple[int, int]) -> None:
    port, pid = foreign
    assert check_listener(port, pid)
    assert check_listener(port, os.getpid())  # a child's
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with pytest.raises(SettingsError, match=rf"port {port}, .* is used by process {pid} \(python"):
            check_listener(port, other.pid)
        other.kill()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert not check_listener(silent.getsockname()[1], os.getpid())


def test_the_password_is_found_for_a_server_of_this_machine_only(
    foreign: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, _ = foreign
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    assert found_password(f"http://127.0.0.1:{port}/api") is None
    (tmp_path / ".prefect").mkdir()
    drawn = password_of(tmp_path / ".prefect")
    assert found_password(f"http://127.0.0.1:{port}/api") == drawn
    assert found_password(f"http://192.0.2.1:{port}/api") is None
    assert found_password("http://127.0.0.1:9/api") is None
    other = password_of(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert found_password(f"http://127.0.0.1:{port}/api") == other


# In a process of its own: the test session has a Prefect server already.
_ATTACK = """
import json, urllib.request, urllib.error
import perturb.flows
from perturb.flows.engine.prefect_server import start_server
from prefect import flow

@flow
def honest() -> int:
    return 1

def attack(method, path, **headers):
    request = urllib.request.Request(url + path, b"{}" if method == "POST" else None, headers, method=method)
    try:
        reply = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        reply = error
    return [reply.status, reply.headers.get("access-control-allow-origin")]

server = start_server()
with server.used():
    import psutil
    from prefect.settings import PREFECT_API_URL
    url = PREFECT_API_URL.value()
    evil = {"Origin": "https://evil.example", "Content-Type": "application/json"}
    seen = {
        "honest": honest(),
        "preflight": attack("OPTIONS", "/deployments/filter", **evil, **{"Access-Control-Request-Method": "POST"}),
        "page": attack("POST", "/deployments/filter", **evil),
        "local": attack("POST", "/deployments/filter", **{"Content-Type": "application/json"}),
        "rebound": attack("POST", "/deployments/filter", Host="evil.example"),
        "token": attack("GET", "/csrf-token?client=evil", **evil),
        "environments": [child.environ() for child in psutil.Process().children(recursive=True)],
    }
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_temporary_server_refuses_pages_and_other_users(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "ERROR", **SECRETS}
    del environment["PERTURB_SUBNET__WALLET_PASSWORD"]
    environment["PERTURB_PSEUDONYM_KEY"] = "pseudonym-secret"
    done = subprocess.run(
        [sys.executable, "-c", _ATTACK], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["honest"] == 1
    assert seen["preflight"][1] is None
    # No request that changes something without a token of this server, and no token without the password.
    assert seen["page"] == seen["local"] == seen["rebound"] == [403, None]
    assert seen["token"] == [401, None]
    assert seen["environments"]
    assert not any("-secret" in value for given in seen["environments"] for value in given.values())


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs/operations.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_documented_servers_have_a_password_and_no_secrets() -> None:
    import yaml

    units = [unit for unit in blocks("ini") if "prefect server start" in unit]
    assert len(units) == 1
    assert "--host 127.0.0.1" in units[0]
    assert "EnvironmentFile=/etc/perturb/server.env" in units[0]
    [files] = [text for text in blocks("sh") if "/etc/perturb/server.env" in text]
    server, worker = re.findall(r"cat > /etc/perturb/(?:server|worker)\.env <<END\n(.*?)END\n", files, flags=re.DOTALL)
    for name in ("PREFECT_SERVER_API_AUTH_STRING=", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS="):
        assert name in server
    assert not re.search("PERTURB_|AWS_", server)
    assert "PREFECT_API_AUTH_STRING=" in worker

    [compose] = [yaml.safe_load(text) for text in blocks("yaml") if "prefect server start" in text]
    service = compose["services"]["server"]
    assert service["env_file"] == "server.env"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert compose["services"]["worker"]["env_file"] == "worker.env"


# In a process of its own, as another user's would be: this one has the key, and the loops of its own client.
_FOREIGN_CLIENT = """
import sys, distributed
try:
    distributed.Client(sys.argv[1], timeout=5, set_as_default=False)
except (OSError, RuntimeError, TypeError) as error:
    print("refused:", type(error).__name__)
else:
    print("connected")
"""


@pytest.mark.dask
def test_a_cluster_of_ones_own_takes_no_client_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed", reason="pip install 'perturb[dask]'")
    from perturb.flows.engine.runner import task_runner
    from perturb.schemas.settings import load_settings

    monkeypatch.setenv("PERTURB_RUNNER", "dask")
    monkeypatch.setenv("PERTURB_RUNNER_WORKERS", "1")
    with task_runner(load_settings()) as runner:
        client = runner.client  # type: ignore[attr-defined]
        assert distributed.Client.submit(client, os.getpid).result(60) != os.getpid()
        address = client.scheduler_info()["address"]
        assert address.startswith("tls://127.0.0.1:")
        for attempt in (address, address.replace("tls://", "tcp://")):
            done = subprocess.run(
                [sys.executable, "-c", _FOREIGN_CLIENT, attempt], capture_output=True, text=True, timeout=120
            )
            assert done.stdout.startswith("refused: "), done.stdout + done.stderr[-2000:]
