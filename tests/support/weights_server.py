"""A file server for weights, and hostile ones, on loopback. Run as a script it serves a folder until its stdin closes,
and prints its port:

    python -m tests.support.weights_server FOLDER

Paths that name no file are hostile: `/endless`, `/huge`, `/drip`, `/loop`, `/gzip`, `/to/URL`.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


class Handler(SimpleHTTPRequestHandler):
    """Serves files, and what bombs are made of."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request."""
        name = self.path.removeprefix("/")
        if name == "endless":
            self._head(200, {"Transfer-Encoding": "chunked"})
            self._forever(b"10000\r\n" + bytes(2**16) + b"\r\n")
        elif name == "huge":
            self._head(200, {"Content-Length": str(10**10)})
            self._forever(bytes(2**16))
        elif name == "drip":
            self._head(200, {"Content-Length": "1000"})
            self._forever(b"x", seconds=0.05)
        elif name == "gzip":
            self._head(200, {"Content-Length": "10", "Content-Encoding": "gzip"})
            self._write(bytes(10))
        elif name == "loop":
            self._head(302, {"Location": "/loop", "Content-Length": "0"})
        elif name.startswith("to/"):
            self._head(302, {"Location": name.removeprefix("to/"), "Content-Length": "0"})
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _forever(self, data: bytes, seconds: float = 0) -> None:
        self.close_connection = True
        pause = threading.Event()
        while self._write(data):
            pause.wait(seconds)

    def _write(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            return False
        return True


def make_server(folder: Path) -> ThreadingHTTPServer:
    """Return a server of `folder` on a free port."""
    server = ThreadingHTTPServer((HOST, 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    return server


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve `folder` in a thread; yield the address in front of its files, such as `http://127.0.0.1:8200`."""
    server = make_server(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until stdin closes."""
    server = make_server(Path(sys.argv[1]))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
