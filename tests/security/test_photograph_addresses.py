"""An address that a photograph service returns leads to that service's own hosts, however it is written."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from perturb.sources.web import Downloader, Refused

PEXELS = "https://images.pexels.com"


@dataclass
class Listener:
    """A port of the producer's own network; `heard` is what each connection to it sent first."""

    port: int
    heard: list[bytes] = field(default_factory=list)


@pytest.fixture
def inside() -> Iterator[Listener]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener(server.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        listener.heard.append(connection.recv(4096))
                        if listener.heard[-1].startswith(b"GET "):
                            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    "address",
    [
        r"https://127.0.0.1:PORT\@images.pexels.com/x.jpg",
        r"https://127.0.0.1:PORT\.images.pexels.com/x.jpg",
        "https://127.0.0.1:PORT#@images.pexels.com/x.jpg",
        "https://127.0.0.1:PORT?@images.pexels.com/x.jpg",
        "https://images.pexels.com@127.0.0.1:PORT/x.jpg",
        "https://images.pexels.com:443@127.0.0.1:PORT/x.jpg",
        "https://127.0.0.1:PORT@images.pexels.com/x.jpg",
        "https://@images.pexels.com/x.jpg",
        "https://127.0.0.1:PORT/\t@images.pexels.com/x.jpg",
        "https://images.pexels.com\r\nHost: 127.0.0.1:PORT/x.jpg",
        "https://images.pexels.com\u2044@127.0.0.1:PORT/x.jpg",
        "https://images.pexels.com%2f@127.0.0.1:PORT/x.jpg",
        "https://127.0.0.1:PORT;@images.pexels.com/x.jpg",
        "//127.0.0.1:PORT/x.jpg",
        "https:127.0.0.1:PORT",
    ],
)
def test_only_the_named_hosts_are_connected_to(inside: Listener, address: str) -> None:
    web = Downloader({PEXELS}, attempts=1, backoff_seconds=0.001)
    with pytest.raises(Refused, match=f"(has user information|is not a host of this source).*accepted: .*{PEXELS}"):
        web.get(address.replace("PORT", str(inside.port)), max_bytes=100)
    assert inside.heard == []


def test_what_was_compared_is_what_is_requested(inside: Listener) -> None:
    own = f"http://127.0.0.1:{inside.port}"
    web = Downloader({own}, attempts=1)
    assert web.get(f"{own}/a%20b.jpg?auto=compress&h=650#top", max_bytes=100, query={"q": "tabby & cat"}) == b"ok"
    assert inside.heard[0].startswith(b"GET /a%20b.jpg?auto=compress&h=650&q=tabby+%26+cat HTTP/1.1\r\n")
