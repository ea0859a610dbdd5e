"""A proxy between an S3 client and its server that makes a share of the requests fail, in the ways networks do."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

FAULTS = (
    "status_500",
    "status_503",
    "reset",
    "lost_answer",
    "hang",
    "truncate",
    "corrupt_answer",
    "corrupt_request",
    "delay",
)
_ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>injected</Message></Error>"


@dataclass
class FaultyProxy:
    """Forwards requests to `target` and makes a `share` of them fail by one of `faults`. `hit` counts the faults."""

    target: tuple[str, int]
    share: float
    seed: int = 0
    faults: tuple[str, ...] = FAULTS
    hang_s: float = 3.0
    hit: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), client.makefile("rb") as reader:
            while self._exchange(client, reader):
                pass

    def _choose(self, head: bytes) -> str | None:
        """Choose a fault for this request. Bytes of listings stay right: they have no digest, and TLS protects them."""
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            fault = self._random.choice(self.faults)
            if fault.startswith("corrupt") and b"list-type=2" in head.partition(b"\r\n")[0]:
                fault = "truncate"
            self.hit[fault] += 1
            return fault

    def _exchange(self, client: socket.socket, reader) -> bool:  # type: ignore[no-untyped-def]
        head, length, _ = _read_head(reader)
        if not head:
            return False
        if b"expect: 100-continue" in head.lower():
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        body = reader.read(length or 0)
        fault = self._choose(head)
        if fault == "reset":
            return _reset(client)
        if fault == "hang":
            time.sleep(self.hang_s)
            return False
        if fault in ("status_500", "status_503"):
            code, text = (b"500 x", b"InternalError") if fault == "status_500" else (b"503 x", b"SlowDown")
            error = _ERROR % text
            client.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (code, len(error)) + error)
            return True
        if fault == "corrupt_request":
            body = self._flip(body)
        answer_head, answer = self._forward(head, body)
        if fault == "lost_answer":
            return _reset(client)
        if fault == "delay":
            time.sleep(0.2)
        if fault == "corrupt_answer":
            answer = self._flip(answer)
        if fault == "truncate" and answer:
            client.sendall(answer_head + answer[: len(answer) // 2])
            return False
        client.sendall(answer_head + answer)
        return True

    def _flip(self, body: bytes) -> bytes:
        if not body:
            return body
        place = self._random.randrange(len(body))
        return body[:place] + bytes([body[place] ^ 0x20]) + body[place + 1 :]

    def _forward(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection(self.target) as server, server.makefile("rb") as reader:
            server.sendall(head + body)
            answer_head, length, chunked = _read_head(reader)
            if head.startswith(b"HEAD ") or answer_head.split(b" ", 2)[1] in (b"204", b"304"):
                return answer_head, b""
            return answer_head, _read_chunks(reader) if chunked else reader.read(length)


def _reset(client: socket.socket) -> bool:
    """Close with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def _read_head(reader) -> tuple[bytes, int | None, bool]:  # type: ignore[no-untyped-def]
    lines, length, chunked = [], None, False
    while line := reader.readline():
        lines.append(line)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        chunked |= name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
        if line == b"\r\n":
            break
    return b"".join(lines), length, chunked


def _read_chunks(reader) -> bytes:  # type: ignore[no-untyped-def]
    found = []
    while True:
        line = reader.readline()
        piece = reader.read(int(line, 16) + 2)
        found += [line, piece]
        if int(line, 16) == 0:
            return b"".join(found)
