"""The open connections of a miner: which are kept, and which are closed to make room for newer ones.

A connection is unverified until the signature over its request's headers is verified. An unverified connection is
closed after a few seconds, or earlier when room is needed. So connections that send nothing, or a byte now and then,
cost an honest sender nothing: its headers arrive within one round trip, and then its connection stays.
"""

import asyncio
import ipaddress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from perturb.miner.limits import Limits

# A network of this size is one customer's. A sender with IPv6 has all of its addresses.
_IPV6_PREFIX = 64


class Connections:
    """All connections of one server: at most so many unverified ones of one address, and so many in total.

    Where a new connection exceeds a limit, the oldest unverified one is closed: of the same address, or of the address
    that has most of them. Where none is unverified, the new connection is closed.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self._all: set[Connection] = set()
        # By address, the oldest first: a dictionary keeps its order and removes in constant time.
        self._unverified: dict[str, dict[Connection, None]] = {}

    def add(self, connection: "Connection") -> bool:
        """Make room for a connection and count it. Returns False where there is no room."""
        own = self._unverified.get(connection.address, {})
        if len(own) >= self.limits.max_connections_per_address:
            self._close_oldest(own)
        if len(self._all) >= self.limits.max_connections:
            if not self._unverified:
                return False
            self._close_oldest(max(self._unverified.values(), key=len))
        self._all.add(connection)
        self._unverified.setdefault(connection.address, {})[connection] = None
        return True

    def verified(self, connection: "Connection") -> None:
        """Keep the connection, whatever comes after it."""
        own = self._unverified.get(connection.address, {})
        own.pop(connection, None)
        if not own:
            self._unverified.pop(connection.address, None)

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that ended."""
        self.verified(connection)
        self._all.discard(connection)

    def _close_oldest(self, connections: dict["Connection", None]) -> None:
        oldest = next(iter(connections))
        self.remove(oldest)
        oldest.transport.abort()


class Connection(H11Protocol):
    """One connection, which carries one request. The application ends its probation with `request.state.verified()`."""

    def __init__(self, connections: Connections, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.address = ""
        self._connections = connections
        self._end: asyncio.TimerHandle | None = None
        self._kept = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, or close it at once."""
        self.transport = transport
        self.address = _network(transport.get_extra_info("peername"))
        if self._connections.add(self):
            super().connection_made(transport)
            self._abort_in(self._connections.limits.header_seconds)
        else:
            # The server's protocol was not told of the connection, so it is not told of its end either.
            transport.set_protocol(asyncio.Protocol())
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on, and give the application, which runs later, the means to keep this connection."""
        super().data_received(data)
        if self.scope is not None:
            self.scope["state"]["verified"] = self._verified

    def on_response_complete(self) -> None:
        """Give the sender a moment to read the end of the response, which it could put off for good."""
        super().on_response_complete()
        self._abort_in(self._connections.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for others."""
        if self._end:
            self._end.cancel()
        self._connections.remove(self)
        super().connection_lost(exc)

    def _verified(self) -> None:
        if not self._kept and self._end:
            self._end.cancel()
            self._kept = True
            self._connections.verified(self)

    def _abort_in(self, seconds: float) -> None:
        if self._end:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)


def _network(peer: tuple[str, int] | str | None) -> str:
    """Return the IPv4 address, or the network of the IPv6 address, that counts as one sender."""
    host = peer[0] if isinstance(peer, tuple) else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
    return str(address)
