"""The miner's server: authenticates the sender, limits what it accepts, answers, and signs the answer.

The cheapest checks of a request come first: the shape of the headers, whether the sender may send challenges, size,
signature and replay, free capacity, content. Only then is work done. Headers are untrusted until the signature over
them is verified. The content stays untrusted after that: a validator with a permit can be malicious.
"""

import asyncio
import inspect
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bittensor import http_auth
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from perturb.miner.answer import Answer, Unanswerable
from perturb.miner.validators import ValidatorList
from perturb.schemas.challenge import Task
from perturb.schemas.errors import AttackError, SettingsError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.subnet import wire
from perturb.subnet.keys import SS58_LENGTH, Keypair
from perturb.subnet.signing import sign_response

logger = logging.getLogger(__name__)

MAX_PIXELS = 2048 * 2048
# Much longer than the freshness window, so that a request still counts as a replay after the clock was set back.
_NONCE_SECONDS = 600.0
_BODY_SECONDS = 10.0
_MAX_HEADER_BLOCK = 16 * 2**10
# Newer SDKs require the expected signature scheme; hotkeys are sr25519.
_SCHEME: dict[str, Any] = (
    {"expected_crypto_type": 1} if "expected_crypto_type" in inspect.signature(http_auth.verify).parameters else {}
)
_HEADER_LENGTHS = {
    http_auth.HEADER_VERSION: 8,
    http_auth.HEADER_HOTKEY: SS58_LENGTH,
    http_auth.HEADER_RECEIVER: SS58_LENGTH,
    http_auth.HEADER_NONCE: 20,
    http_auth.HEADER_CRYPTO: 16,
    http_auth.HEADER_SIGNATURE: 2 + 2 * 64,
}


@dataclass(frozen=True)
class Limits:
    """The capacity of one miner: `max_concurrent` requests at once, `threads` that run attacks, open connections."""

    max_concurrent: int = 2
    threads: int = 1
    max_connections: int = 64


class Refused(Exception):
    """A request that is refused with HTTP `status` and one sentence for the sender."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status = status
        self.detail = detail


def create_app(
    answer: Answer,
    keypair: Keypair,
    validators: ValidatorList,
    *,
    name: str,
    limits: Limits = Limits(),
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """Return the ASGI application of one miner: `POST /v1/challenge` and `GET /health`.

    `name` is the attack that /health names; `on_ready` is called once the application runs.
    """
    handler = _Handler(answer, keypair, validators, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with handler.pool:
            refreshing = asyncio.create_task(validators.keep_fresh())
            if on_ready:
                on_ready()
            yield
            refreshing.cancel()

    app = FastAPI(title="perturb miner", lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "hotkey": keypair.ss58_address, "attack": name, "in_flight": handler.in_flight}

    @app.post(wire.CHALLENGE_PATH)
    async def challenge(request: Request) -> Response:
        try:
            return await handler.serve(request)
        except Refused as refusal:
            logger.info("refused with %d: %s", refusal.status, refusal.detail)
            headers = {"Retry-After": "2"} if refusal.status == 503 else None
            return Response(refusal.detail, refusal.status, headers, media_type="text/plain")

    return app


class _Handler:
    """Checks and answers the requests to one hotkey."""

    def __init__(self, answer: Answer, keypair: Keypair, validators: ValidatorList, limits: Limits):
        self.in_flight = 0
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="attack")
        self._answer = answer
        self._keypair = keypair
        self._validators = validators
        self._limits = limits
        # One store per hotkey: its keys do not contain the receiver, so a shared store would refuse valid requests.
        self._nonces = http_auth.InMemoryNonceStore(retention=_NONCE_SECONDS)

    async def serve(self, request: Request) -> Response:
        """Return the signed answer. Raises Refused."""
        arrived = time.monotonic()
        headers = _auth_headers(request)
        if not self._validators.allows(headers[http_auth.HEADER_HOTKEY.lower()]):
            raise Refused(403, "this hotkey is not on the list of validators that may send challenges to this miner")
        body = await _read_body(request)
        caller = self._verify(request, headers, body)
        if self.in_flight >= self._limits.max_concurrent:
            raise Refused(503, f"busy with {self.in_flight} challenges, the maximum of this miner; ask again later")
        self.in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            task, answer = await loop.run_in_executor(self.pool, self._work, body, arrived)
        finally:
            self.in_flight -= 1
        nonce = str(caller.nonce_ns)
        signature = sign_response(
            self._keypair,
            task_id=task.task_id,
            nonce=nonce,
            validator_hotkey=caller.hotkey_ss58,
            status=200,
            body=answer,
        )
        signed = {
            wire.HEADER_TASK: task.task_id,
            wire.HEADER_NONCE: nonce,
            wire.HEADER_HOTKEY: self._keypair.ss58_address,
            wire.HEADER_SIGNATURE: signature,
        }
        return Response(answer, 200, signed, media_type=wire.RESPONSE_TYPE)

    def _verify(self, request: Request, headers: dict[str, str], body: bytes) -> http_auth.Caller:
        # The request target as it was sent: the decoded path can differ from the one that the signature covers.
        path = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        try:
            caller = http_auth.verify(
                headers,
                body,
                method=request.method,
                path=f"{path}?{query}" if query else path,
                self_hotkey_ss58=self._keypair.ss58_address,
                nonce_store=self._nonces,
                **_SCHEME,
            )
        except http_auth.AuthError as error:
            raise Refused(401, f"{type(error).__name__}: {error}") from error
        return caller

    def _work(self, body: bytes, arrived: float) -> tuple[Task, bytes]:
        """Read the task, attack, and encode; runs in the pool."""
        try:
            task, png = wire.unpack_request(body)
            clean = _clean_pixels(task, png)
        except (wire.WireError, PngRefused) as error:
            raise Refused(400, str(error)) from error
        try:
            return task, self._answer(task, clean, arrived + task.timeout_ms / 1000)
        except Unanswerable as error:
            raise Refused(422, str(error)) from error
        except AttackError as error:
            # The sentence is for the miner: it can name files of this machine.
            logger.warning("no answer was sent: %s", error)
            raise Refused(500, "the attack of this miner failed") from error


def _auth_headers(request: Request) -> dict[str, str]:
    """Return the btauth headers by lower-case name. Raises Refused for a header that is repeated or too long."""
    found: dict[str, str] = {}
    longest = {name.lower(): length for name, length in _HEADER_LENGTHS.items()}
    for name, value in request.headers.items():
        if name in longest:
            if name in found or len(value) > longest[name] or not value.isascii():
                raise Refused(401, f"MalformedAuth: {name} is repeated or malformed")
            found[name] = value
    if len(found.get(http_auth.HEADER_HOTKEY.lower(), "")) != SS58_LENGTH:
        raise Refused(401, f"MalformedAuth: {http_auth.HEADER_HOTKEY} is missing or not an ss58 address")
    return found


async def _read_body(request: Request) -> bytes:
    too_large = Refused(413, f"the body exceeds {wire.MAX_BODY_BYTES} bytes")
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > wire.MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > wire.MAX_BODY_BYTES:
                    raise too_large
    except ClientDisconnect as error:
        raise Refused(400, "the connection was closed before the whole body arrived") from error
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from error
    return bytes(body)


def _clean_pixels(task: Task, png: bytes) -> Pixels:
    if task.height * task.width > MAX_PIXELS:
        raise wire.WireError(f"{task.width}x{task.height} is more than the maximum of {MAX_PIXELS} pixels")
    clean = read_png(png, height=task.height, width=task.width)
    if pixel_identity(clean) != task.original_sha256:
        raise wire.WireError("the PNG's pixels do not have the digest original_sha256")
    return clean


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 lets the system choose. Raises SettingsError for a port that cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise SettingsError(
            f"port {port} on {host} cannot be used: {error}; choose another with --port (0 lets the system choose)"
        ) from error
    return listener


def serve(app: FastAPI, listener: socket.socket, *, limits: Limits = Limits()) -> None:
    """Serve until SIGINT or SIGTERM, then wait up to a second for running answers."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        limit_concurrency=limits.max_connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=_MAX_HEADER_BLOCK,
    )
    uvicorn.Server(config).run(sockets=[listener])
