"""The miner's server: authenticates the sender, limits what it accepts, answers, and signs the answer.

The cheapest checks of a request come first: the shape of the headers, whether the sender may send challenges, size,
signature and replay, all before the body is read; then the body's digest, free capacity, content. Only then is work
done. Headers are untrusted until the signature over them is verified. The content stays untrusted after that: a
validator with a permit can be malicious.
"""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from bittensor import http_auth
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from perturb.miner.answer import Answer, Unanswerable
from perturb.miner.authentication import Authenticator, auth_headers, check_body
from perturb.miner.limits import DEFAULT_LIMITS, Limits
from perturb.miner.validators import ValidatorList
from perturb.schemas.challenge import Task
from perturb.schemas.errors import AttackError, SettingsError
from perturb.schemas.image import Pixels, pixel_identity
from perturb.schemas.png import PngRefused, read_png
from perturb.subnet import wire
from perturb.subnet.keys import Keypair
from perturb.subnet.signing import sign_response

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger(__name__)

MAX_PIXELS = 2048 * 2048
_BODY_SECONDS = 10.0
# How long the rest of a refused request is read and dropped, so that its sender comes to read the refusal.
_LINGER_SECONDS = 2.0
_MAX_HEADER_BLOCK = 16 * 2**10


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
    limits: Limits = DEFAULT_LIMITS,
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
            return _Refusal(refusal.detail, refusal.status, headers, media_type="text/plain")

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
        self._authenticator = Authenticator(keypair.ss58_address)

    async def serve(self, request: Request) -> Response:
        """Return the signed answer. Raises Refused."""
        arrived = time.monotonic()
        try:
            headers = auth_headers(request.headers.items())
            if not self._validators.allows(headers[http_auth.HEADER_HOTKEY.lower()]):
                raise Refused(
                    403, "this hotkey is not on the list of validators that may send challenges to this miner"
                )
            _check_announced(request)
            sender = self._authenticator.verify(headers, method=request.method, target=_target(request))
            # Another server than `http_server` has no such function.
            getattr(request.state, "verified", _nothing)()
            body = await _read_body(request)
            check_body(sender, body)
        except http_auth.AuthError as error:
            raise Refused(401, f"{type(error).__name__}: {error}") from error
        if self.in_flight >= self._limits.max_concurrent:
            raise Refused(503, f"busy with {self.in_flight} challenges, the maximum of this miner; ask again later")
        self.in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            task, answer = await loop.run_in_executor(self.pool, self._work, body, arrived)
        finally:
            self.in_flight -= 1
        signature = sign_response(
            self._keypair,
            task_id=task.task_id,
            nonce=sender.nonce,
            validator_hotkey=sender.hotkey,
            status=200,
            body=answer,
        )
        signed = {
            wire.HEADER_TASK: task.task_id,
            wire.HEADER_NONCE: sender.nonce,
            wire.HEADER_HOTKEY: self._keypair.ss58_address,
            wire.HEADER_SIGNATURE: signature,
        }
        return Response(answer, 200, signed, media_type=wire.RESPONSE_TYPE)

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


def _nothing() -> None:
    """Do nothing."""


def _target(request: Request) -> str:
    """The request target as it was sent: the decoded path can differ from the one that the signature covers."""
    path = request.scope["raw_path"].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _too_large() -> Refused:
    return Refused(413, f"the body exceeds {wire.MAX_BODY_BYTES} bytes")


def _check_announced(request: Request) -> None:
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > wire.MAX_BODY_BYTES:
        raise _too_large()


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > wire.MAX_BODY_BYTES:
                    raise _too_large()
    except ClientDisconnect as error:
        raise Refused(400, "the connection was closed before the whole body arrived") from error
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from error
    return bytes(body)


class _Refusal(Response):
    """A refusal that is sent at once, before the request's body has arrived; what arrives of it is dropped.

    A connection that is closed while its sender still writes can lose the response.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, read the request to its end for a moment, and end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while dropped <= wire.MAX_BODY_BYTES:
                    message = await receive()
                    dropped += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        await send({"type": "http.response.body", "body": b""})


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


def http_server(app: FastAPI, *, limits: Limits = DEFAULT_LIMITS) -> "uvicorn.Server":
    """Return the HTTP server of an application, with the limits on connections."""
    import uvicorn

    from perturb.miner.connections import Connection, Connections

    config = uvicorn.Config(
        app,
        http=partial(Connection, Connections(limits)),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        # One request a connection: a validator sends no more, and an idle connection would take another's room.
        headers=[("Connection", "close")],
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=_MAX_HEADER_BLOCK,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, listener: socket.socket, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Serve until SIGINT or SIGTERM, then wait up to a second for running answers."""
    http_server(app, limits=limits).run(sockets=[listener])
