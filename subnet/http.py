"""An HTTP client with every convenience switched off that a hostile server could use."""

from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

CONNECT_SECONDS = 3.0
_MAX_HEADER_LINE = 1024
_MAX_HEADERS = 32


def open_session() -> aiohttp.ClientSession:
    """A session for one round.

    No keep-alive (a server's idle close breaks reused connections), no limit of its own on connections, no cookies, no
    proxies from the environment, no inflating, headers so small that a flood ends early, no informational responses.
    """
    return aiohttp.ClientSession(
        connector=_Connector(),
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
    def __init__(self) -> None:
        super().__init__(limit=0, force_close=True, use_dns_cache=False)
        self._factory = cast("partial[ResponseHandler]", partial(_OneAnswer, loop=self._loop))


class _OneAnswer(ResponseHandler):
    """Ends the connection at the first informational response.

    aiohttp skips these for as long as they come. A stream of `103 Early Hints` therefore holds a client until its
    timeout, and parsing it takes the event loop from everybody else.
    """

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Queue a parsed message, unless it is an informational one or comes after such a one."""
        message, _ = data
        if self.exception() is not None:
            return
        if 100 <= message.code < 200:
            self.set_exception(HttpProcessingError(code=message.code, message=f"HTTP {message.code} before the answer"))
            self.close()
            return
        super().feed_data(data, size)
