"""The miner's pool: networks that tasks name, from a folder and over HTTP, and what it refuses."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from perturb.miner import targets
from perturb.miner.targets import HttpRegistry, TargetPool
from perturb.models.classifier import load_classifier
from perturb.schemas.errors import ModelError
from perturb.schemas.settings import ClassifierSettings, Settings
from perturb.schemas.target import Target
from perturb.sinks.stores.open import open_store
from perturb.sinks.targets.registry import Registry
from perturb.tasks.lineup.add import add_first_generation, add_state

OWN = ClassifierSettings(device="cpu", persistence=False)
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Target]]:
    """A store with the first generation and four others."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(open_store(str(folder)))
    first = add_first_generation(registry, Settings(store=str(folder), classifier=OWN))
    state = load_classifier(OWN).module.net.state_dict()
    made = []
    for number in range(1, 5):
        changed = {name: value + number / 8 if name == "classifier.bias" else value for name, value in state.items()}
        made.append(add_state(registry, changed, of=first, name=f"lite0-g{number}", recipe={}))
    return folder, made


@pytest.fixture
def served(store: tuple[Path, list[Target]]) -> Iterator[tuple[str, list[str]]]:
    """The store as files over HTTP, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *arguments: object) -> None:
            asked.append(self.path)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(store[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_network_is_loaded_over_http_once(
    store: tuple[Path, list[Target]], served: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = served
    one = store[1][0]
    pool = TargetPool(OWN, registry=url + "/", cache=tmp_path)
    assert pool.get(LITE0, pool.own.sha256) is pool.own
    assert asked == []
    loaded = pool.get(LITE0, one.sha256)
    assert loaded.sha256 == one.sha256
    assert torch.equal(loaded.module.net.state_dict()["classifier.bias"], pool.own.module.net.classifier.bias + 0.125)
    assert pool.get(LITE0, one.sha256) is loaded
    assert [path.rpartition("/")[2] for path in asked] == [f"{one.sha256}.json", "card.json", "weights.safetensors"]
    # Not there: asked for once, and not again for a minute.
    for _ in range(2):
        with pytest.raises(ModelError, match=f"the registry at {url}/ does not have {LITE0} with 000000000000"):
            pool.get(LITE0, "0" * 64)
    assert sum("0" * 64 in path for path in asked) == 1
    with pytest.raises(ModelError, match="does not have resnet18 with"):
        TargetPool(OWN, registry=url, cache=tmp_path).get("resnet18", one.sha256)


def test_the_last_few_are_kept(store: tuple[Path, list[Target]], tmp_path: Path) -> None:
    folder, made = store
    pool = TargetPool(OWN, registry=str(folder), cache=tmp_path)
    for one in made:
        assert pool.get(LITE0, one.sha256).sha256 == one.sha256
    assert list(pool._loaded) == [one.sha256 for one in made[1:]]


def test_what_is_not_the_network_of_the_digest_is_refused(
    store: tuple[Path, list[Target]], served: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, made = store
    first = Registry(open_store(str(folder))).names()[0]
    assert first == "lite0-g0"
    alone = TargetPool(OWN)
    with pytest.raises(ModelError, match=r"this miner attacks tf_.*; `perturb miner --targets` names a registry"):
        alone.get(LITE0, made[0].sha256)
    monkeypatch.setattr(targets, "_MAX_WEIGHTS", 1000)
    with pytest.raises(ModelError, match=r"weights\.safetensors is larger than is accepted"):
        TargetPool(OWN, registry=served[0], cache=tmp_path).get(LITE0, made[0].sha256)
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:9/.* cannot be read \(ConnectError"):
        TargetPool(OWN, registry="http://127.0.0.1:9", cache=tmp_path).get(LITE0, made[0].sha256)
    monkeypatch.undo()
    weights = folder / "targets/lite0-g4/weights.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\1\2\3\4")
        with pytest.raises(ModelError, match="the weights of target 'lite0-g4' are not those of its card"):
            TargetPool(OWN, registry=served[0], cache=tmp_path / "empty").get(LITE0, made[3].sha256)
    finally:
        weights.write_bytes(kept)


def test_a_server_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("perturb.miner.targets._WHOLE_SECONDS", 0.5)
    try:
        with pytest.raises(ModelError, match=r"took longer than 0\.5 s"):
            HttpRegistry(f"http://127.0.0.1:{server.server_port}").by_digest("0" * 64)
    finally:
        server.shutdown()
        server.server_close()
