"""The playground over HTTP: a page, a photograph in the body of a POST, and server-sent events.

Of an upload nothing is kept: it lives in memory until its attempt ends, and no log has any of it.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perturb.attacks.observer import AttackStopped
from perturb.playground.line import Bodies, Line, Rates, Refused
from perturb.playground.samples import SAMPLES, sample_jpeg
from perturb.playground.session import AttemptRefused, Event, Player, play
from perturb.schemas.play import ATTACKS, Attempt
from perturb.sources.decode import FORMATS, UnusableImage, decode_photo

_PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
# How often a stream looks whether its visitor is still there.
_LOOK_SECONDS = 0.2
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")


def make_app(player: Player, *, hosts: Sequence[str], frame_ancestors: Sequence[str] = ()) -> FastAPI:
    """Return the application. `hosts` are the names by which it may be called, `frame_ancestors` who may embed it."""
    line = Line(player.limits.waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        line.close()

    app = FastAPI(title="Perturb playground", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
    _add_headers(app, frame_ancestors)
    _add_refusals(app)
    _add_page(app, player)
    _add_attempts(app, player, line)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"well": True, "attempts": line.waiting}

    return app


class _Headers:
    """Adds headers to every response, also to a stream, without a task of its own in between."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]):
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _add_headers(app: FastAPI, frame_ancestors: Sequence[str]) -> None:
    ancestors = " ".join(["'self'", *frame_ancestors])
    headers = {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            f"base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }

    app.add_middleware(_Headers, headers=headers)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refuse(_: Request, refused: Refused) -> JSONResponse:
        headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
        return JSONResponse({"error": refused.sentence}, refused.status, headers)


def _add_page(app: FastAPI, player: Player) -> None:
    about = _about(player)

    @app.get("/")
    @app.get("/page.css")
    @app.get("/page.js")
    def page(request: Request) -> Response:
        name, kind = _PAGE[request.url.path.lstrip("/")]
        return Response(files(__package__).joinpath(name).read_bytes(), media_type=kind)

    @app.get("/api/about")
    def tell() -> dict[str, Any]:
        return about

    @app.get("/samples/{name}")
    def sample(name: str) -> Response:
        if name not in SAMPLES:
            raise Refused(404, f"sample {name!r} is not here; accepted: {', '.join(SAMPLES)}")
        return Response(sample_jpeg(name), media_type="image/jpeg")


def _about(player: Player) -> dict[str, Any]:
    limits, bounds = player.limits, player.settings.bounds
    networks = [
        {"name": name, "classifier": network.name, "sha256": network.sha256, "classes": _class_names(network)}
        for name, network in player.networks.items()
    ]
    return {
        "networks": networks,
        "attacks": ATTACKS,
        "samples": [{"name": name, "title": title} for name, title in SAMPLES.items()],
        "bounds": {"max_levels": bounds.max_levels, "min_psnr": bounds.min_psnr, "min_ssim": bounds.min_ssim},
        "judge": player.judge.name,
        "seconds": limits.seconds,
        "body_bytes": limits.body_bytes,
    }


def _class_names(network: Any) -> list[str]:
    return [network.label_name(label) for label in range(network.num_classes)]


def _add_attempts(app: FastAPI, player: Player, line: Line) -> None:
    rates, bodies = Rates(player.limits.attempts_a_minute), Bodies(player.limits.bodies)

    @app.post("/api/attempts")
    async def attempts(request: Request) -> StreamingResponse:
        _check_origin(request)
        attempt = _attempt(request, player)
        rates.count(request.client.host if request.client else "")
        with bodies.counted():
            body = await _body(request, player)
        ticket = line.enter()
        try:
            # While it waits, an attempt holds the image that the network takes, not a photograph of 64 megapixels.
            clean = await asyncio.to_thread(lambda: player.prepare(attempt, _decoded(body)))
        except BaseException:
            line.leave(ticket)
            raise
        stream = _stream(request, line, ticket, lambda emit: play(player, attempt, clean, emit))
        return StreamingResponse(stream, media_type="text/event-stream")


def _check_origin(request: Request) -> None:
    """Refuse a POST that another site's page makes with this visitor's browser."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refused(403, "attempts are accepted from this playground's own page only")


def _attempt(request: Request, player: Player) -> Attempt:
    try:
        attempt = Attempt.model_validate({name: value for name, value in request.query_params.items() if value})
        player.check(attempt)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Refused(422, f"{name} is {str(first['input'])[:80]!r}: {first['msg']}") from error
    except AttemptRefused as error:
        raise Refused(422, str(error)) from error
    return attempt


async def _body(request: Request, player: Player) -> bytes:
    """Read the photograph, no more of it and no longer than is allowed."""
    most, seconds = player.limits.body_bytes, player.limits.body_seconds
    too_large = Refused(413, f"the photograph is larger than {most / 1e6:g} MB; send a smaller one")
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError as error:
        raise Refused(408, f"the photograph did not arrive within {seconds:g} s; send a smaller one") from error
    if not body:
        raise Refused(422, "the body is empty; accepted: the bytes of a photograph")
    return bytes(body)


def _decoded(body: bytes) -> Any:
    try:
        return decode_photo(body)
    except UnusableImage as error:
        if body[4:8] == b"ftyp" and body[8:12] in _HEIC_BRANDS:
            raise Refused(
                422,
                "this is a HEIC or AVIF photograph, which is not decoded here; share it as JPEG, or take a screenshot",
            ) from error
        raise Refused(422, f"the photograph can't be used: {error}; accepted: {', '.join(FORMATS)}") from error


async def _stream(
    request: Request, line: Line, ticket: object, attempt: Callable[[Callable[[str, Event], None]], None]
) -> AsyncIterator[str]:
    """Yield the events of an attempt; end it when the visitor has gone."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[str, Event] | None]()
    gone = threading.Event()

    def emit(name: str, data: Event) -> None:
        if gone.is_set():
            raise AttackStopped
        loop.call_soon_threadsafe(events.put_nowait, (name, data))

    def run() -> None:
        try:
            if not gone.is_set():
                attempt(emit)
        except AttackStopped:
            pass
        except Exception as error:  # noqa: BLE001  (the visitor is told, and the server goes on)
            sentence = str(error) if isinstance(error, AttemptRefused) else "the attempt failed here; try another one"
            loop.call_soon_threadsafe(events.put_nowait, ("refused", {"error": sentence}))
        finally:
            loop.call_soon_threadsafe(events.put_nowait, None)

    try:
        place = -1
        running: asyncio.Future[None] | None = None
        while True:
            if running is None and line.place(ticket) == 0:
                running = line.submit(run)
            elif running is None and line.place(ticket) != place:
                place = line.place(ticket)
                yield _event("queued", {"place": place})
            try:
                event = await asyncio.wait_for(events.get(), _LOOK_SECONDS)
            except TimeoutError:
                if await request.is_disconnected():
                    return
                continue
            if event is None:
                return
            yield _event(*event)
    finally:
        gone.set()
        # The next attempt begins when this one has left the networks.
        line.leave(ticket)


def _event(name: str, data: Event) -> str:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"
