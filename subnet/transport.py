"""The requests of a round: one signed request to each miner at the same time, and one response or refusal from each.

A miner cannot end a round, delay it past its deadline, or make it hold more than one body of bounded size.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from perturb.schemas.challenge import Challenge
from perturb.schemas.neuron import Neuron
from perturb.schemas.outcome import Outcome, http_outcome
from perturb.schemas.response import Response
from perturb.schemas.settings import SubnetSettings
from perturb.subnet import wire
from perturb.subnet.addresses import AddressRefused, parse_endpoint
from perturb.subnet.http import open_session
from perturb.subnet.keys import LOCAL_NETWORK, Keypair
from perturb.subnet.signing import sign_request, verify_response_signature

log = logging.getLogger(__name__)

_CHUNK = 64 * 2**10


async def collect(
    challenge: Challenge,
    neurons: Sequence[Neuron],
    keypair: Keypair,
    *,
    settings: SubnetSettings,
    round_seconds: float | None = None,
) -> list[Response]:
    """Send `challenge` to all `neurons`, in random order, and return one response each, in the order of `neurons`.

    A miner has `task.timeout_ms` from sending to its last byte, on a monotonic clock. `round_seconds` limits the whole
    round; by default every batch of `max_concurrency` requests has its full time. A miner's fault never raises.
    """
    if not neurons:
        return []
    seconds = challenge.task.timeout_ms / 1000
    batches = -(-len(neurons) // settings.max_concurrency)
    deadline = time.monotonic() + (seconds * batches if round_seconds is None else round_seconds)
    order = random.SystemRandom().sample(range(len(neurons)), len(neurons))
    body = wire.pack_request(challenge)
    async with open_session() as session:
        exchange = _Exchange(
            challenge=challenge,
            body=body,
            body_sha256=hashlib.sha256(body).hexdigest(),
            keypair=keypair,
            session=session,
            slots=asyncio.Semaphore(settings.max_concurrency),
            seconds=seconds,
            deadline=deadline,
            allow_private=settings.allow_private_addresses or settings.network == LOCAL_NETWORK,
        )
        tasks = {place: asyncio.create_task(exchange.with_miner(neurons[place])) for place in order}
        try:
            await asyncio.wait(tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
    responses = [_result_of(tasks[place], neuron) for place, neuron in enumerate(neurons)]
    _warn_of_own_faults(responses)
    return responses


@dataclass(frozen=True)
class _Exchange:
    """The constants of a round, and the exchange with one miner."""

    challenge: Challenge
    body: bytes
    body_sha256: str
    keypair: Keypair
    session: aiohttp.ClientSession
    slots: asyncio.Semaphore
    seconds: float
    deadline: float
    allow_private: bool

    async def with_miner(self, neuron: Neuron) -> Response:
        """Wait for a slot, then send the request. The time limit starts when the slot is free."""
        async with self.slots:
            started = time.monotonic()
            seconds = min(self.seconds, self.deadline - started)
            if seconds <= 0:
                return _refusal(neuron, started, Outcome.NOT_ASKED, "the round ended before this miner's turn")
            return await self._request(neuron, seconds)

    async def _request(self, neuron: Neuron, seconds: float) -> Response:
        from bittensor import http_auth

        try:
            endpoint = parse_endpoint(neuron.endpoint, allow_private=self.allow_private)
        except AddressRefused as error:
            return _refusal(neuron, time.monotonic(), Outcome.UNREACHABLE, str(error))
        # Signed here and not earlier: a miner accepts a signature for 10 s after signing.
        auth = sign_request(
            self.keypair, path=wire.CHALLENGE_PATH, body_sha256=self.body_sha256, receiver=neuron.hotkey
        )
        nonce = auth[http_auth.HEADER_NONCE]
        received = bytearray()
        started = time.monotonic()

        def refuse(outcome: str, detail: str) -> Response:
            return _refusal(neuron, started, outcome, detail, nonce=nonce)

        try:
            async with (
                asyncio.timeout(seconds),
                self.session.post(
                    f"http://{endpoint.authority}{wire.CHALLENGE_PATH}",
                    data=self.body,
                    headers=auth
                    | {"Content-Type": wire.REQUEST_TYPE, wire.HEADER_DIGEST: wire.content_digest(self.body_sha256)},
                    allow_redirects=False,
                ) as reply,
            ):
                fault = self._header_fault(reply, neuron, nonce)
                if fault:
                    return refuse(*fault)
                async for chunk in reply.content.iter_chunked(_CHUNK):
                    received += chunk  # Content-Length, checked above, is where the parser stops.
                finished = time.monotonic()
                signature = reply.headers[wire.HEADER_SIGNATURE]
        except aiohttp.ConnectionTimeoutError:
            return refuse(Outcome.UNREACHABLE, "no connection in time")
        except TimeoutError:
            if received:
                return refuse(Outcome.SLOW_BODY, f"only {len(received)} bytes arrived within {seconds:g} s")
            return refuse(Outcome.TIMEOUT, f"no answer within {seconds:g} s")
        except aiohttp.ClientConnectorError as error:
            return refuse(Outcome.UNREACHABLE, _printable(error.os_error.strerror or "no connection"))
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            return refuse(Outcome.CONNECTION_LOST, f"{type(error).__name__} after {len(received)} bytes of body")
        except (aiohttp.ClientResponseError, aiohttp.http.HttpProcessingError) as error:
            return refuse(Outcome.BAD_HEADERS, _printable(error.message))

        body = bytes(received)
        return self._verified(neuron, body, nonce, signature, response_ms=(finished - started) * 1000)

    def _header_fault(self, reply: aiohttp.ClientResponse, neuron: Neuron, nonce: str) -> tuple[str, str] | None:
        """Return the fault of the headers, or None. Echoed values are compared, never used. The body is unread."""
        headers = reply.headers
        if 300 <= reply.status < 400:
            return Outcome.REDIRECT, f"HTTP {reply.status}; redirects are not followed"
        if reply.status != 200:
            return http_outcome(reply.status), f"HTTP {reply.status}"
        encoding = headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            return Outcome.ENCODED, f"Content-Encoding {_printable(encoding)}; only identity is accepted"
        content_type = headers.get("Content-Type", "none")
        if content_type != wire.RESPONSE_TYPE:
            return Outcome.BAD_BODY, f"Content-Type {_printable(content_type)}; expected {wire.RESPONSE_TYPE}"
        limit = wire.response_limit(self.challenge.task)
        if reply.content_length is None or "Transfer-Encoding" in headers:
            # Streams of one-byte chunks are the most expensive to read, and a miner knows the length of its answer.
            return Outcome.TOO_LARGE, f"no Content-Length; it is required, and at most {limit}"
        if reply.content_length > limit:
            return Outcome.TOO_LARGE, f"Content-Length {reply.content_length} exceeds {limit} bytes"
        return self._identity_fault(headers, neuron, nonce)

    def _identity_fault(self, headers: Mapping[str, str], neuron: Neuron, nonce: str) -> tuple[str, str] | None:
        if wire.HEADER_SIGNATURE not in headers:
            return Outcome.UNSIGNED, f"no {wire.HEADER_SIGNATURE} header"
        expected = (
            (wire.HEADER_HOTKEY, neuron.hotkey, Outcome.WRONG_HOTKEY),
            (wire.HEADER_NONCE, nonce, Outcome.REPLAYED),
            (wire.HEADER_TASK, self.challenge.task.task_id, Outcome.WRONG_TASK),
        )
        for header, value, outcome in expected:
            given = headers.get(header, "")
            if given != value:
                return outcome, f"{header} is {_printable(given) or 'missing'}; expected {value}"
        return None

    def _verified(self, neuron: Neuron, body: bytes, nonce: str, signature: str, *, response_ms: float) -> Response:
        digest = hashlib.sha256(body).hexdigest()
        genuine = verify_response_signature(
            signature,
            task_id=self.challenge.task.task_id,
            nonce=nonce,
            validator_hotkey=self.keypair.ss58_address,
            miner_hotkey=neuron.hotkey,
            status=200,
            body_sha256=digest,
        )
        failure, detail = None, None
        if not genuine:
            failure, detail = Outcome.BAD_SIGNATURE, "the signature is not this hotkey's over this response"
        elif not body:
            failure, detail = Outcome.BAD_BODY, "the body is empty"
        return Response(
            miner_uid=neuron.uid,
            miner_hotkey=neuron.hotkey,
            response_ms=response_ms,
            body=b"" if failure else body,
            body_sha256=digest if genuine else None,
            nonce=nonce,
            signature=signature if genuine else None,
            failure=failure,
            detail=detail,
        )


def _result_of(task: "asyncio.Task[Response]", neuron: Neuron) -> Response:
    error = None if task.cancelled() else task.exception()
    if task.cancelled() or error is not None:
        # An error that is not foreseen above costs the miner its answer and is logged; the round goes on.
        log.error("uid %d: the exchange failed with an unexpected error", neuron.uid, exc_info=error)
        return _refusal(neuron, time.monotonic(), Outcome.CONNECTION_LOST, f"{type(error).__name__} in the client")
    return task.result()


def _refusal(neuron: Neuron, started: float, outcome: str, detail: str, *, nonce: str | None = None) -> Response:
    return Response(
        miner_uid=neuron.uid,
        miner_hotkey=neuron.hotkey,
        response_ms=(time.monotonic() - started) * 1000,
        nonce=nonce,
        failure=outcome,
        detail=detail,
    )


def _printable(text: str) -> str:
    """Untrusted text, shortened and without control characters, for a log line."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _warn_of_own_faults(responses: Sequence[Response]) -> None:
    failures = Counter(response.failure for response in responses)
    unauthorised = failures[http_outcome(401)]
    if len(responses) > 1 and unauthorised * 2 > len(responses):
        log.warning(
            "%d of %d miners refused our signed request (HTTP 401): check this machine's clock, which must be within "
            "seconds of theirs",
            unauthorised,
            len(responses),
        )
