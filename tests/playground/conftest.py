"""One playground for all tests of it: the embedded network, no language model, a server of its own thread."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from perturb.models.classifier import Classifier
from perturb.models.judge.judge import NoJudge
from perturb.playground.app import make_app
from perturb.playground.check import warm_up
from perturb.playground.session import Player
from perturb.schemas.play import PlayLimits
from perturb.schemas.settings import Settings
from tests.support.verification_rounds import classifier


@pytest.fixture(scope="session")
def network() -> Classifier:
    return classifier()


@pytest.fixture(scope="session")
def player(network: Classifier) -> Player:
    """Two networks by name, so that there is one to choose: the same weights under another name."""
    limits = PlayLimits(seconds=10, waiting=2, attempts_a_minute=1000, body_seconds=1.0)
    made = Player({"lite0": network, "again": network}, NoJudge(), Settings(), limits)
    warm_up(made)
    return made


class Running:
    """A server that can be stopped and started again on its port."""

    def __init__(self, player: Player):
        self._player = player
        self.port = 0
        self.start()

    def start(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        app = make_app(self._player, hosts=["127.0.0.1"], frame_ancestors=["https://huggingface.co"])
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(20)


@pytest.fixture(scope="session")
def running(player: Player) -> Iterator[Running]:
    server = Running(player)
    yield server
    server.stop()
