"""`perturb miner` from start to end, and what it refuses to start with."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from perturb.miner.run import run_miner
from perturb.schemas.errors import SettingsError, SubnetError
from perturb.schemas.settings import Settings, SubnetSettings
from perturb.subnet.keys import development_keypair
from perturb.subnet.roster import write_roster

ROOT = Path(__file__).parents[2]
VALIDATOR = development_keypair("//Validator").ss58_address


def test_a_miner_listens_says_who_it_is_and_ends_on_sigterm(tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    write_roster(roster, [], validators=[VALIDATOR])
    script = (
        "from miner.run import run_miner\n"
        "from schemas.settings import load_settings\n"
        "def tell(started): print(started.port, started.hotkey, flush=True)\n"
        "run_miner('bad', settings=load_settings(), port=0, tell=tell)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PERTURB_SUBNET__ROSTER": str(roster),
        "PERTURB_SUBNET__HOTKEY_URI": "//Miner",
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            port, hotkey = process.stdout.readline().split()
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
            connection.request("GET", "/health")
            assert json.loads(connection.getresponse().read())["hotkey"] == hotkey
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in {0, -signal.SIGTERM}
        finally:
            process.kill()


class Chain:
    """Remembers what is published; then refuses, so that nothing is served."""

    def __init__(self) -> None:
        self.served: list[tuple[str, int]] = []

    def serve(self, keypair: object, ip: str, port: int) -> None:
        self.served.append((ip, port))
        raise SubnetError("not registered")

    def __getattr__(self, name: str) -> object:
        raise AssertionError(name)


@pytest.fixture
def on_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    from bittensor import Wallet

    Wallet("miner", "default", path=str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    monkeypatch.setattr("perturb.miner.run.find_validators", lambda settings: frozenset({VALIDATOR}))
    subnet = SubnetSettings(network="finney", wallet_name="miner", wallet_path=tmp_path)
    return Settings().model_copy(update={"subnet": subnet})


def test_the_endpoint_is_published_on_a_chain(on_chain: Settings) -> None:
    chain = Chain()
    with pytest.raises(SubnetError, match="not registered"):
        run_miner("bad", settings=on_chain, port=0, external_ip="8.8.4.4", chain=chain)
    ((ip, port),) = chain.served
    assert (ip, port > 0) == ("8.8.4.4", True)


def test_an_address_that_nobody_can_reach_is_not_published(on_chain: Settings) -> None:
    chain = Chain()
    for options in ({}, {"external_ip": "192.168.1.5"}, {"host": "0.0.0.0"}):
        with pytest.raises(SettingsError, match="--external-ip"):
            run_miner("bad", settings=on_chain, port=0, chain=chain, **options)
    assert not chain.served


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_seconds": 0}, "--budget-seconds is 0"),
        ({"max_concurrent": 0}, "--max-concurrent is 0"),
        ({"port": 70_000}, "port 70000"),
        ({"port": -1}, "port -1"),
        ({"host": "no.such.host.invalid"}, "no.such.host.invalid"),
    ],
)
def test_what_cannot_be_started_is_said_plainly(tmp_path: Path, options: Mapping[str, object], message: str) -> None:
    roster = tmp_path / "roster.toml"
    write_roster(roster, [], validators=[VALIDATOR])
    settings = Settings().model_copy(update={"subnet": SubnetSettings(roster=roster)})
    with pytest.raises(SettingsError, match=message):
        run_miner("bad", settings=settings, **options)


def test_a_port_in_use_is_said_plainly(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SettingsError, match=r"in use.*0 lets the system choose"),
    ):
        run_miner("bad", settings=Settings(), port=taken.getsockname()[1])
