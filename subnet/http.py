"""An HTTP client without the conveniences that a hostile server could abuse."""

from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

CONNECT_SECONDS = 3.0
_MAX_HEADER_LINE = 1024
_MAX_HEADERS = 32


def open_session(resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Return a session for one round. `resolver` replaces the resolution of host names.

    It has no keep-alive (a server that closes an idle connection breaks the next request), no limit on the number of
    connections, no cookies, no proxies from the environment, no decompression and no informational responses. Headers
    are limited to 32 lines of 1 KiB, so that a flood of headers ends early.
    """
    return aiohttp.ClientSession(
        connector=_Connector(resolver),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "perturb"},
        max_line_size=_MAX_HEADER_LINE,
        max_field_size=_MAX_HEADER_LINE,
        max_headers=_MAX_HEADERS,
    )


class _Connector(aiohttp.TCPConnector):
    """Makes connections whose responses are parsed by `_FinalResponseOnly`."""

    def __init__(self, resolver: AbstractResolver | None) -> None:
        super().__init__(limit=0, force_close=True, use_dns_cache=False, resolver=resolver)
        # aiohttp has no public way to replace the protocol class, so pyproject.toml bounds its version. The miner
        # `informs_forever` in tests/subnet/test_transport.py notices when this attribute has no effect any more.
        self._factory = cast("partial[ResponseHandler]", partial(_FinalResponseOnly, loop=self._loop))


class _FinalResponseOnly(ResponseHandler):
    """Ends the connection at the first informational response (1xx).

    aiohttp skips informational responses without a limit. A stream of `103 Early Hints` would hold a request until its
    timeout, and parsing the stream would block the event loop for all other requests.
    """

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Queue a parsed message, unless it is informational or follows an informational one."""
        message, _ = data
        if self.exception() is not None:
            return
        if 100 <= message.code < 200:
            self.set_exception(HttpProcessingError(code=message.code, message=f"HTTP {message.code} before the answer"))
            self.close()
            return
        super().feed_data(data, size)
