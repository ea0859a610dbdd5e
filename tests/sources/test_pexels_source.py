"""The Pexels source against a local server that answers as the API's documentation says, and as it shouldn't."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from skimage import data

from perturb.schemas.errors import SourceError
from perturb.schemas.settings import PexelsSettings
from perturb.sources import web
from perturb.sources.pexels import PexelsSource

KEY = "k3y-that-nobody-may-see"
CAT = data.chelsea()


def jpeg(pixels: np.ndarray = CAT) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@dataclass
class Answer:
    """What the server sends for one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """`answers` decides by path and query; `requests` are (path, query, headers) in their order."""

    origin: str
    answers: Callable[[str, dict[str, str]], Answer] = lambda path, query: Answer(status=404)
    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)

    def asked_for(self, path: str) -> list[dict[str, str]]:
        return [query for asked, query, _ in self.requests if asked == path]


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            running.requests.append((parts.path, query, dict(self.headers)))
            answer = running.answers(parts.path, query)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        running = Server(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield running
        http.shutdown()


def hit(number: int, address: str) -> dict[str, Any]:
    return {
        "id": number,
        "url": f"https://www.pexels.com/photo/{number}/",
        "photographer": f"Photographer {number}",
        "src": {"original": "https://elsewhere.example/original.jpg", "large2x": address},
        "alt": "unasked for",
    }


def page(*hits: dict[str, Any], more: bool = False) -> Answer:
    body: dict[str, Any] = {"total_results": 99, "photos": list(hits)}
    if more:
        body["next_page"] = "https://attacker.example/v1/search?page=2"
    return Answer(json.dumps(body).encode())


def source(server: Server, *prompts: str) -> PexelsSource:
    settings = PexelsSettings(api_key=SecretStr(KEY), prompts=prompts or ("cat",))
    return PexelsSource(settings, api=server.origin, origins={server.origin}, backoff_seconds=0.001)


def test_search_results_become_photos_with_their_origin(server: Server) -> None:
    def answers(path: str, query: dict[str, str]) -> Answer:
        if path == "/photo.jpg":
            return Answer(jpeg())
        first = 10 * int(query["page"])
        return page(*(hit(first + i, f"{server.origin}/photo.jpg") for i in range(3)), more=query["page"] == "1")

    server.answers = answers
    photos = list(source(server, "tabby cat").photos(seed=1))
    assert sorted(photo.source_id for photo in photos) == sorted(
        f"{number}?query=tabby cat&page={number // 10}" for number in (10, 11, 12, 20, 21, 22)
    )
    for photo in photos:
        number = int(photo.source_id.partition("?")[0])
        assert (photo.source, photo.subject, photo.true_class) == ("pexels", "tabby cat", None)
        assert photo.source_url == f"https://www.pexels.com/photo/{number}/"
        assert photo.author == f"Photographer {number}"
        assert photo.license is not None
        assert photo.license.startswith("Pexels License")
        assert photo.pixels.shape == CAT.shape
    assert [query["page"] for query in server.asked_for("/v1/search")] == ["1", "2"]


def test_key_goes_to_the_search_only(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.answers = lambda path, query: (
        page(hit(1, f"{server.origin}/a.jpg"), hit(2, f"{server.origin}/gone.jpg")) if path == "/v1/search"
        else Answer(jpeg() if path == "/a.jpg" else b"", status=200 if path == "/a.jpg" else 404)
    )  # fmt: skip
    with caplog.at_level(logging.DEBUG):
        assert len(list(source(server).photos(seed=1))) == 1
    sent = {path: headers.get("Authorization") for path, _, headers in server.requests}
    assert sent == {"/v1/search": KEY, "/a.jpg": None, "/gone.jpg": None}
    assert KEY not in caplog.text


def test_other_hosts_are_never_asked(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    evil = f"http://127.0.0.1:{server.origin.rpartition(':')[2]}@169.254.169.254/x.jpg"
    addresses = ["https://169.254.169.254/latest/meta-data", "file:///etc/passwd", evil, "not an address", "",
                 f"{server.origin}0/a.jpg", "http://[::1/a.jpg"]  # fmt: skip
    server.answers = lambda path, query: page(*(hit(i, address) for i, address in enumerate(addresses)))
    assert list(source(server).photos(seed=1)) == []
    assert {path for path, _, _ in server.requests} == {"/v1/search"}
    assert caplog.text.count("accepted: ") == len(addresses)
    assert caplog.text.count("is not a host of this source") == 2


def test_redirects_are_not_followed(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    away = Answer(status=302, headers={"Location": f"{server.origin}/stolen.jpg"})
    server.answers = lambda path, query: page(hit(1, f"{server.origin}/a.jpg")) if path == "/v1/search" else away
    assert list(source(server).photos(seed=1)) == []
    assert "HTTP status 302" in caplog.text
    assert server.asked_for("/stolen.jpg") == []


def test_overlong_and_broken_photos_are_skipped(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perturb.sources.pexels.MAX_BYTES", 200_000)
    bodies = {"/good.jpg": jpeg(CAT[:100, :100]), "/long.jpg": bytes(300_000), "/html.jpg": b"<html>"}
    server.answers = lambda path, query: (
        page(*(hit(i, server.origin + name) for i, name in enumerate(bodies))) if path == "/v1/search"
        else Answer(bodies[path])
    )  # fmt: skip
    assert [photo.pixels.shape for photo in source(server).photos(seed=1)] == [(100, 100, 3)]
    assert "sent more than 200,000 bytes" in caplog.text
    assert "not an image of a known format" in caplog.text


def test_a_row_of_failures_ends_in_an_error(server: Server) -> None:
    server.answers = lambda path, query: (
        page(*(hit(i, f"{server.origin}/{i}.jpg") for i in range(15))) if path == "/v1/search" else Answer(b"?")
    )
    with pytest.raises(SourceError, match=r"10 Pexels photographs in a row failed"):
        next(source(server).photos(seed=1))


def test_busy_server_is_asked_again_when_it_says(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    troubles = iter([Answer(status=429, headers={"Retry-After": "7"}), Answer(status=503), Answer(status=500)])
    server.answers = lambda path, query: next(troubles, page(hit(1, f"{server.origin}/a.jpg")))
    assert source(server).check().startswith("pexels answers: 1 photographs for 'cat'")
    assert len(server.requests) == 4
    assert waited[0] == 7
    assert len(waited) >= 2


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(status=401, body=b"bad key"), "refuses the key .*check PERTURB_PEXELS__API_KEY"),
        (Answer(status=429), "request limit is used up"),
        (Answer(status=500), "can't be searched: .*HTTP status 500"),
        (Answer(b"<html>captive portal</html>"), "not what its documentation says"),
        (Answer(b'{"photos": [{"id": "x"}]}'), "not what its documentation says"),
        (Answer(b" " * (2**21 + 1)), "sent more than 2,097,152 bytes"),
    ],
)
def test_search_failures_are_said_in_a_sentence(server: Server, answer: Answer, complaint: str) -> None:
    server.answers = lambda path, query: answer
    with pytest.raises(SourceError, match=complaint) as raised:
        source(server).check()
    assert KEY not in str(raised.value)


def test_slow_server_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers = lambda path, query: page()
    monkeypatch.setattr(web, "_TOTAL_SECONDS", -1)
    with pytest.raises(SourceError, match="took longer than"):
        source(server).check()


def test_unreachable_server_is_an_error() -> None:
    nowhere = "http://127.0.0.1:9"
    settings = PexelsSettings(api_key=SecretStr(KEY), prompts=("cat",))
    with pytest.raises(SourceError, match="can't be reached"):
        PexelsSource(settings, api=nowhere, origins={nowhere}, backoff_seconds=0.001).check()


@pytest.mark.parametrize("key", [None, SecretStr(""), SecretStr("  ")])
def test_missing_key_is_explained(key: SecretStr | None) -> None:
    with pytest.raises(SourceError, match="set PERTURB_PEXELS__API_KEY"):
        PexelsSource(PexelsSettings(api_key=key))


def test_without_prompts_the_class_names_are_searched(server: Server) -> None:
    server.answers = lambda path, query: page(hit(1, f"{server.origin}/a.jpg")) if path != "/a.jpg" else Answer(jpeg())
    settings = PexelsSettings(api_key=SecretStr(KEY))
    photos = PexelsSource(settings, api=server.origin, origins={server.origin}).photos(seed=3)
    assert len(list(islice(photos, 1))) == 1
    assert len({query["query"] for query in server.asked_for("/v1/search")}) == 4
