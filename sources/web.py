"""HTTPS downloads from named hosts only: limited in bytes and time, retried with backoff, never redirected."""

import time
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

import urllib3

from perturb.schemas.errors import SourceError

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 20.0
_TOTAL_SECONDS = 60.0
_CHUNK = 2**16


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
        """Return the body of `url`. Raises Refused, whose message never contains `headers`."""
        origin = _origin(url)
        if origin not in self._origins:
            raise Refused(f"{origin} is not a host of this source; accepted: {', '.join(sorted(self._origins))}")
        try:
            response = self._pool.request(
                "GET", url, fields=query, headers=headers, redirect=False, preload_content=False, decode_content=False
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


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "an invalid address"
    # Not `netloc`: user:password@ before the host must neither be compared nor repeated in a message.
    return f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
