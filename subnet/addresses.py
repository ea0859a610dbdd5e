"""Where a request may go: to public IP literals, never into the validator's own network.

Endpoints come from the chain, where any account can register any address. Without this check a validator could be made
to post to its own cloud metadata service or to an admin port of a neighbouring machine.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# IANA special-purpose registries. Written out, because `is_global` lets several of these through on Python 3.11 and
# its answer changes between releases.
_DENIED_V4 = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "reserved",
    "192.52.193.0/24": "reserved",
    "192.88.99.0/24": "6to4 relay",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "reserved",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}
# Global unicast is 2000::/3; everything outside it is refused, and these inside it.
_GLOBAL_V6 = IPv6Network("2000::/3")
_DENIED_V6 = {
    "2001::/23": "reserved (Teredo, ORCHID)",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "reserved",
    "3fff::/20": "documentation",
}
_DENIED: list[tuple[IPv4Network | IPv6Network, str]] = [
    (ip_network(text), kind) for text, kind in (_DENIED_V4 | _DENIED_V6).items()
]


class AddressRefused(ValueError):
    """An endpoint that is malformed or must not be contacted; the message names it and gives the reason."""


@dataclass(frozen=True)
class Endpoint:
    """An IP literal and a port, ready for a URL."""

    ip: IPv4Address | IPv6Address
    port: int

    @property
    def authority(self) -> str:
        """`1.2.3.4:80` or `[2a00::1]:80`."""
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_endpoint(text: str, *, allow_private: bool) -> Endpoint:
    """Parse `ip:port` or `[ipv6]:port`; `allow_private` accepts loopback and private addresses too.

    Raises AddressRefused for host names, zone ids, ports outside 1..65535 and addresses on the deny-list.
    Multicast and unspecified addresses are never accepted.
    """
    host, separator, port_text = text.rpartition(":")
    if not separator or len(text) > 60:
        raise AddressRefused(f"endpoint {text[:60]!r} is not ip:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressRefused(f"endpoint {text!r}: an IPv6 address stands in brackets, [ip]:port")
    # int() would also take "+80", "8_0", and digits of other scripts.
    if not (port_text.isascii() and port_text.isdigit()) or not 1 <= int(port_text) <= 65535:
        raise AddressRefused(f"endpoint {text!r}: port {port_text!r} is not within 1..65535")
    try:
        ip = ip_address(host)
    except ValueError as error:
        raise AddressRefused(f"endpoint {text!r}: {host!r} is not an IP address (names are not resolved)") from error
    ip = _unwrap(ip, text)
    reason = _denial(ip)
    if reason and (not allow_private or ip.is_multicast or ip.is_unspecified):
        raise AddressRefused(f"endpoint {text!r}: {ip} is {reason}; accepted: public unicast addresses")
    return Endpoint(ip=ip, port=int(port_text))


def _unwrap(ip: IPv4Address | IPv6Address, text: str) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv6Address):
        if ip.scope_id:
            raise AddressRefused(f"endpoint {text!r}: zone ids are not accepted")
        if ip.ipv4_mapped:
            return ip.ipv4_mapped
    return ip


def _denial(ip: IPv4Address | IPv6Address) -> str | None:
    for network, kind in _DENIED:
        if ip.version == network.version and ip in network:
            return kind
    if isinstance(ip, IPv6Address) and ip not in _GLOBAL_V6:
        # Covers loopback, link-local, unique-local, site-local, multicast, NAT64 and IPv4-compatible addresses.
        return "not global unicast"
    return None
