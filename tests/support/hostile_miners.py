"""A process full of miners on loopback ports, most of them hostile. Run as a script: it prints one JSON line
{kind: [[hotkey, port], ...]} and serves until its stdin closes.

    python -m tests.support.hostile_miners '{"good": 24, "hangs": 3, ...}' VALIDATOR_HOTKEY DEADLINE_SECONDS
"""

import asyncio
import contextlib
import gzip
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping

from perturb.miner.server import create_app, http_server
from perturb.miner.validators import ValidatorList
from perturb.schemas.challenge import Task
from perturb.schemas.image import Pixels, encode_png
from perturb.subnet import wire
from perturb.subnet.keys import Keypair, development_keypair
from perturb.subnet.signing import sign_response

OTHER = development_keypair("//Other")
Writer = asyncio.StreamWriter


class Asked:
    """What a hostile miner has read of the request, and the answer that an honest one would give."""

    def __init__(self, keypair: Keypair, headers: dict[str, str], body: bytes):
        task, png = wire.unpack_request(body)
        self.task, self.png, self.keypair = task, png, keypair
        self.nonce = headers["x-bittensor-nonce"]
        self.validator = headers["x-bittensor-hotkey"]

    def answer(
        self,
        *,
        signer: Keypair | None = None,
        hotkey: str | None = None,
        nonce: str | None = None,
        task_id: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        body = self.png if body is None else body
        signer, nonce, task_id = signer or self.keypair, nonce or self.nonce, task_id or self.task.task_id
        signature = sign_response(
            signer, task_id=task_id, nonce=nonce, validator_hotkey=self.validator, status=200, body=body
        )
        sent = {
            "Content-Type": wire.RESPONSE_TYPE,
            "Content-Length": str(len(body)),
            wire.HEADER_TASK: task_id,
            wire.HEADER_NONCE: nonce,
            wire.HEADER_HOTKEY: hotkey or signer.ss58_address,
            wire.HEADER_SIGNATURE: signature,
        } | dict(headers or {})
        return head(**sent) + body


def head(status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def hangs(asked: Asked, writer: Writer) -> None:
    await asyncio.sleep(3600)


async def answers_late(asked: Asked, writer: Writer) -> None:
    await asyncio.sleep(float(sys.argv[3]) + 0.3)
    writer.write(asked.answer())


async def drips(asked: Asked, writer: Writer) -> None:
    answer = asked.answer()
    start = answer.index(b"\r\n\r\n") + 4
    writer.write(answer[:start])
    for place in range(start, len(answer)):
        writer.write(answer[place : place + 1])
        await writer.drain()
        await asyncio.sleep(1)


async def drips_headers(asked: Asked, writer: Writer) -> None:
    for byte in asked.answer():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def redirects(asked: Asked, writer: Writer) -> None:
    writer.write(head("307 Temporary Redirect", Location=f"http://127.0.0.1:{trap_port}/", **{"Content-Length": "0"}))


async def gzip_bomb(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=bomb, headers={"Content-Encoding": "gzip"}))


async def endless_body(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=b"", headers={"Content-Length": "", "Transfer-Encoding": "chunked"}))
    while True:
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()


async def tiny_chunks(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=b"", headers={"Content-Length": "", "Transfer-Encoding": "chunked"}))
    while True:
        writer.write(b"1\r\n\0\r\n" * 10_000)
        await writer.drain()


async def huge_length(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=b"", headers={"Content-Length": str(10**12)}))
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def wrong_signature(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(headers={wire.HEADER_SIGNATURE: "ab" * 64}))


async def unsigned(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(headers={wire.HEADER_SIGNATURE: ""}))


async def another_miners_answer(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(signer=OTHER))


async def another_miners_signature(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(signer=OTHER, hotkey=asked.keypair.ss58_address))


async def replays(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(nonce=str(int(asked.nonce) - 10**10), task_id="f" * 64))


async def replays_in_disguise(asked: Asked, writer: Writer) -> None:
    old = asked.answer(nonce=str(int(asked.nonce) - 10**10), task_id="f" * 64)
    writer.write(
        old.replace(b"f" * 64, asked.task.task_id.encode()).replace(
            str(int(asked.nonce) - 10**10).encode(), asked.nonce.encode()
        )
    )


async def wrong_task(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(task_id="e" * 64))


async def html(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}))


async def empty(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer(body=b""))


async def resets(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer()[:2000])
    await writer.drain()
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def closes_early(asked: Asked, writer: Writer) -> None:
    writer.write(asked.answer()[:2000])


async def header_flood(asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"".join(b"X-%d: %s\r\n" % (number, b"y" * 100) for number in range(500)))
        await writer.drain()


async def endless_header(asked: Asked, writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        writer.write(b"y" * 65536)
        await writer.drain()


async def informs_forever(asked: Asked, writer: Writer) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000)
        await writer.drain()


async def no_http(asked: Asked, writer: Writer) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\x00\xff\xfe\r\n\r\n")


async def busy(asked: Asked, writer: Writer) -> None:
    writer.write(head("503 Service Unavailable", **{"Content-Length": "0"}))


async def switches_protocols(asked: Asked, writer: Writer) -> None:
    writer.write(head("101 Switching Protocols", Upgrade="websocket", Connection="upgrade"))


KINDS: dict[str, Callable[[Asked, Writer], Awaitable[None]]] = {
    name: value for name, value in list(globals().items()) if asyncio.iscoroutinefunction(value)
}
trap_port = 0
# 64 MiB of nothing: small enough for the cap, unless somebody inflates it.
bomb = gzip.compress(bytes(64 * 2**20), 6)


async def serve_hostile(kind: str, keypair: Keypair) -> socket.socket:
    async def talk(reader: asyncio.StreamReader, writer: Writer) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
            await KINDS[kind](Asked(keypair, headers, body), writer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server.sockets[0]


async def serve_good(keypair: Keypair) -> socket.socket:
    def answer(task: Task, clean: Pixels, deadline: float) -> bytes:
        changed = clean.copy()
        changed[0, 0, 0] ^= 1
        return encode_png(changed)

    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(answer, keypair, ValidatorList(lambda: frozenset({sys.argv[2]})), name="test")
    server = http_server(app)
    tasks.append(asyncio.create_task(server.serve(sockets=[listener])))
    while not server.started:
        await asyncio.sleep(0.01)
    return listener


async def main() -> None:
    global trap_port
    trap = await asyncio.start_server(spring_trap, "127.0.0.1", 0)
    trap_port = trap.sockets[0].getsockname()[1]
    roll: dict[str, list[tuple[str, int]]] = {"trap": [("", trap_port)]}
    for kind, count in json.loads(sys.argv[1]).items():
        for number in range(count):
            keypair = development_keypair(f"//Hostile/{kind}/{number}")
            if kind == "refuses":
                listener = socket.socket()
                listener.bind(("127.0.0.1", 0))
                refusing.append(listener)
            elif kind == "good":
                listener = await serve_good(keypair)
            else:
                listener = await serve_hostile(kind, keypair)
            roll.setdefault(kind, []).append((keypair.ss58_address, listener.getsockname()[1]))
    print(json.dumps(roll), flush=True)
    await asyncio.sleep(3600)


async def spring_trap(reader: asyncio.StreamReader, writer: Writer) -> None:
    print(json.dumps("trapped"), flush=True)
    writer.close()


tasks: list[asyncio.Task[None]] = []
refusing: list[socket.socket] = []

if __name__ == "__main__":
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    asyncio.run(main())
