"""A miner on a loopback port, in a thread, with an attack that costs nothing."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
import uvicorn
from skimage import data

from perturb.miner.answer import Answer
from perturb.miner.limits import Limits
from perturb.miner.server import create_app, http_server
from perturb.miner.validators import ValidatorList
from perturb.schemas.challenge import Task
from perturb.schemas.image import Pixels, encode_png
from perturb.subnet.keys import Keypair, development_keypair
from tests.support import tasks

VALIDATOR, MINER, STRANGER = (development_keypair(uri) for uri in ("//Validator", "//Miner", "//Stranger"))
LIMITS = Limits()


@dataclass
class RunningMiner:
    """A miner that runs; `asked` are the tasks that reached its attack."""

    port: int
    keypair: Keypair = MINER
    asked: list[Task] = field(default_factory=list)


def nudge(task: Task, clean: Pixels, deadline: float) -> bytes:
    changed = clean.copy()
    changed[0, 0, 0] ^= 1
    return encode_png(changed)


@pytest.fixture
def start_miner() -> Iterator[Callable[..., RunningMiner]]:
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(answer: Answer = nudge, *, limits: Limits = LIMITS, keypair: Keypair = MINER) -> RunningMiner:
        listener = socket.create_server(("127.0.0.1", 0))
        running = RunningMiner(listener.getsockname()[1], keypair)

        def recorded(task: Task, clean: Pixels, deadline: float) -> bytes:
            running.asked.append(task)
            return answer(task, clean, deadline)

        ready = threading.Event()
        allowed = ValidatorList(lambda: frozenset({VALIDATOR.ss58_address}))
        app = create_app(recorded, keypair, allowed, name="test", limits=limits, on_ready=ready.set)
        server = http_server(app, limits=limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert ready.wait(20)
        servers.append((server, thread))
        return running

    yield start
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def photo() -> Pixels:
    return np.ascontiguousarray(data.astronaut()[:64, 100:196])


@pytest.fixture(scope="session")
def make_task(photo: Pixels) -> Callable[..., Task]:
    return partial(tasks.make_task, photo, timeout_ms=5000)
