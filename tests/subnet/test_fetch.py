"""Fetching files from strangers: a real server on loopback, honest and hostile."""

import socket
from collections.abc import Iterator

import pytest

from perturb.subnet.fetch import FetchRefused, fetch
from tests.support.weights_server import HOST, serving

MOST = 100_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "file").write_bytes(bytes(range(256)) * 300)
    with serving(folder) as address:
        yield address


def get(url: str, *, seconds: float = 20, private: tuple[str, ...] = (HOST,)) -> bytes:
    return fetch(url, max_bytes=MOST, seconds=seconds, private_hosts=private)


def test_a_file_arrives_whole_also_behind_redirects(server: str) -> None:
    assert get(f"{server}/file") == bytes(range(256)) * 300
    assert get(f"{server}/to/{server}/to//file") == bytes(range(256)) * 300


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "HTTP status 404"),
        ("huge", "10,000,000,000 bytes are announced, at most 100,000 are accepted"),
        ("endless", "no Content-Length"),
        ("gzip", "Content-Encoding gzip"),
        ("loop", "more than 4 redirects"),
        ("to/http://10.0.0.5/file", r"10\.0\.0\.5 is private"),
        ("to/http://169.254.169.254/latest", "link-local"),
        ("to/http://127.0.0.2/file", "loopback"),
        ("to/http://2130706434/file", "canonical|loopback"),
        ("to/http://0.0.0.0/file", "unspecified"),
        ("to/file:///etc/passwd", "not an address"),
        ("to/http://user@127.0.0.1/", "not an address"),
    ],
)
def test_a_hostile_answer_is_refused_with_a_reason(server: str, path: str, reason: str) -> None:
    with pytest.raises(FetchRefused, match=reason):
        get(f"{server}/{path}")


def test_the_time_counts_for_the_whole_file(server: str) -> None:
    with pytest.raises(FetchRefused, match=r"only \d+ bytes arrived within 0.5 s"):
        get(f"{server}/drip", seconds=0.5)


def test_private_addresses_are_refused_unless_they_are_listed(server: str) -> None:
    with pytest.raises(FetchRefused, match=r"127\.0\.0\.1 is loopback"):
        get(f"{server}/file", private=())


def test_a_name_is_resolved_once_and_its_addresses_are_the_ones_that_are_asked(server: str) -> None:
    """The second answer of a name server would lead elsewhere: it is never asked for."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return [HOST] if len(asked) == 1 else ["127.0.0.2"]

    port = server.rpartition(":")[2]
    url = f"http://weights.example:{port}/file"
    assert len(fetch(url, max_bytes=MOST, seconds=20, private_hosts=[HOST], resolve=rebinding)) == 76_800
    assert asked == ["weights.example"]
    with pytest.raises(FetchRefused, match=r"127\.0\.0\.2 is loopback"):
        fetch(url, max_bytes=MOST, seconds=20, private_hosts=[HOST], resolve=rebinding)

    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(FetchRefused, match=r"no connection: .*not known"):
        fetch(url, max_bytes=MOST, seconds=20, resolve=unknown)
