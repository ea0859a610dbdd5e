"""HTTPS downloads from named hosts only: limited in bytes and time, retried with backoff, never redirected."""

import re
import time
from collections.abc import Collection, Mapping
from urllib.parse import urlencode

import urllib3
from urllib3.util import Url, parse_url

from perturb.schemas.errors import SourceError

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 20.0
_TOTAL_SECONDS = 60.0
_CHUNK = 2**16
# What RFC 3986 allows in an address, less square brackets. Parsers disagree about a backslash: it ends the host for
# some and belongs to user information for others.
_ADDRESS = re.compile(r"(?i:https?)://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+")


class Refused(SourceError):
    """A download that ended in another status than 200, or exceeded a limit; `status` is 0 without a response."""

    def __init__(self, message: str, *, status: int = 0):
        super().__init__(message)
        self.status = status


class Downloader:
    """GET for a fixed set of origins (`https://host[:port]`).

    429 and 5xx are retried with exponential backoff. A server's Retry-After is followed for up to a minute.
    """

    def __init__(self, origins: Collection[str], *, attempts: int = 5, backoff_seconds: float = 1.0):
        self._origins = frozenset(origins)
        retries = urllib3.Retry(
            total=attempts - 1,
            redirect=False,
            status_forcelist=(429, 500, 502, 503, 504),
            backoff_factor=backoff_seconds,
            backoff_max=60,
            backoff_jitter=0.25 * backoff_seconds,
            retry_after_max=60,
            raise_on_status=False,
        )
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        self._pool = urllib3.PoolManager(retries=retries, timeout=timeout)

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body of `url`. Raises Refused, whose message never contains `headers`.

        The address is parsed once. What is compared with the origins is what the connection is opened to.
        """
        address, accepted = _parse(url), ", ".join(sorted(self._origins))
        if address is None:
            raise Refused(
                "the address has user information, a backslash or other characters that addresses lack; "
                f"accepted: addresses of {accepted}"
            )
        origin = _origin(address)
        if origin not in self._origins:
            raise Refused(f"{origin} is not a host of this source; accepted: {accepted}")
        target = address.request_uri
        if query:
            target += f"{'&' if address.query else '?'}{urlencode(query)}"
        try:
            server = self._pool.connection_from_host(address.host, address.port, address.scheme)
            response = server.urlopen(
                "GET", target, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
            try:
                return _body(response, origin, max_bytes)
            finally:
                response.close()
        except urllib3.exceptions.HTTPError as error:
            raise Refused(f"{origin} can't be reached ({type(error).__name__})") from error


def _body(response: urllib3.BaseHTTPResponse, origin: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise Refused(f"{origin} answered with HTTP status {response.status}", status=response.status)
    ends = time.monotonic() + _TOTAL_SECONDS
    body = bytearray()
    for chunk in response.stream(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > max_bytes:
            raise Refused(f"{origin} sent more than {max_bytes:,} bytes")
        if time.monotonic() > ends:
            raise Refused(f"{origin} took longer than {_TOTAL_SECONDS:.0f} s for one file")
    return bytes(body)


def _parse(url: str) -> Url | None:
    """Return the parts of an address, None for one with user information or with characters that addresses lack."""
    if not _ADDRESS.fullmatch(url):
        return None
    try:
        address = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        return None
    return address if address.host and "@" not in url.split("/")[2] else None


def _origin(address: Url) -> str:
    return f"{address.scheme}://{address.host}" + (f":{address.port}" if address.port else "")
