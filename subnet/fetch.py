"""Files from addresses that strangers name: limited in bytes and time, never from the operator's own network.

A host name is resolved once for each request, and the connection is made to the addresses that were checked, so that a
name server that answers differently the second time gains nothing. Redirects are followed for a few steps, each of them
checked in the same way.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Collection
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from perturb.schemas.commitment import is_address
from perturb.subnet.addresses import AddressRefused, parse_endpoint
from perturb.subnet.http import open_session

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Returns the IP addresses of a host name. Raises OSError where it has none."""

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 4
_CHUNK = 2**18


class FetchRefused(ValueError):
    """A file that was not fetched; the message gives the reason."""


def fetch(
    url: str, *, max_bytes: int, seconds: float, private_hosts: Collection[str] = (), resolve: Resolve | None = None
) -> bytes:
    """Return the file at `url` (http or https), of at most `max_bytes`, within `seconds` for all of it.

    `private_hosts` are IP addresses that are accepted though they are not public. Raises FetchRefused.
    """
    return asyncio.run(_fetch(url, max_bytes, seconds, frozenset(private_hosts), resolve or _resolve))


async def _fetch(url: str, max_bytes: int, seconds: float, private: frozenset[str], resolve: Resolve) -> bytes:
    received = bytearray()
    try:
        async with asyncio.timeout(seconds), open_session(resolver=_CheckedResolver(private, resolve)) as session:
            for _ in range(_MOST_REDIRECTS + 1):
                place = _checked(url, private)
                async with session.get(place, allow_redirects=False) as reply:
                    if reply.status not in _REDIRECTS:
                        await _read(reply, max_bytes, received)
                        return bytes(received)
                    url = str(place.join(URL(reply.headers.get("Location", ""), encoded=True)))
            raise FetchRefused(f"more than {_MOST_REDIRECTS} redirects; the last one leads to {_printable(url)}")
    except TimeoutError as error:
        raise FetchRefused(f"only {len(received):,} bytes arrived within {seconds:g} s") from error
    except AddressRefused as error:
        raise FetchRefused(str(error)) from error
    except (aiohttp.ClientResponseError, aiohttp.http.HttpProcessingError) as error:
        raise FetchRefused(f"the answer is not HTTP as accepted: {_printable(error.message)}") from error
    except aiohttp.ClientConnectorError as error:
        raise FetchRefused(f"no connection: {_printable(str(error.os_error.strerror or error))}") from error
    except (aiohttp.ClientError, ValueError, OSError) as error:
        if isinstance(error, FetchRefused):
            raise
        raise FetchRefused(f"{type(error).__name__} after {len(received):,} bytes: {_printable(str(error))}") from error


async def _read(reply: aiohttp.ClientResponse, max_bytes: int, received: bytearray) -> None:
    if reply.status != 200:
        raise FetchRefused(f"HTTP status {reply.status}")
    encoding = reply.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise FetchRefused(f"Content-Encoding {_printable(encoding)}; only identity is accepted")
    if reply.content_length is None or "Transfer-Encoding" in reply.headers:
        raise FetchRefused(f"no Content-Length; it is required, and at most {max_bytes:,}")
    if reply.content_length > max_bytes:
        raise FetchRefused(f"{reply.content_length:,} bytes are announced, at most {max_bytes:,} are accepted")
    async for chunk in reply.content.iter_chunked(_CHUNK):
        received += chunk  # Content-Length, checked above, is where the parser stops.


def _checked(url: str, private: frozenset[str]) -> URL:
    """Return an address whose host, where it is an IP address, may be asked. Host names are checked when resolved."""
    if not is_address(url):
        raise FetchRefused(f"{_printable(url)!r} is not an address; accepted: http:// and https:// without user names")
    place = URL(url, encoded=True)
    if not place.host or place.port is None:
        raise FetchRefused(f"{_printable(url)!r} names no host")
    try:
        literal = str(ip_address(place.host))
    except ValueError:
        return place
    _check_address(literal, place.port, private)
    return place


def _check_address(ip: str, port: int, private: frozenset[str]) -> None:
    endpoint = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    parse_endpoint(endpoint, allow_private=ip in private)


class _CheckedResolver(AbstractResolver):
    """Resolves a host name to addresses that may be asked. Raises AddressRefused if one of them may not."""

    def __init__(self, private: frozenset[str], resolve: Resolve):
        self._private, self._resolve = private, resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses to connect to, in the form that aiohttp wants."""
        found: list[ResolveResult] = []
        for ip in await self._resolve(host, port):
            _check_address(ip, port, self._private)
            kind = socket.AF_INET6 if ":" in ip else socket.AF_INET
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found.append(
                ResolveResult(hostname=host, host=ip, port=port, family=kind, proto=socket.IPPROTO_TCP, flags=flags)
            )
        return found

    async def close(self) -> None:
        """Do nothing; required by aiohttp."""


async def _resolve(host: str, port: int) -> list[str]:
    answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in answers))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:120])
