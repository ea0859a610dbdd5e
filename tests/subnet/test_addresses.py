"""Which endpoints may be asked."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.subnet.addresses import AddressRefused, parse_endpoint

PUBLIC = ["8.8.8.8:80", "[2606:4700:4700::1111]:65535", "[::ffff:8.8.8.8]:1"]
INNER = [
    "10.0.0.5:80",
    "127.0.0.1:80",
    "169.254.169.254:80",
    "172.31.0.1:80",
    "192.168.1.1:80",
    "100.64.0.1:80",
    "198.18.0.1:80",
    "192.0.2.1:80",
    "192.88.99.1:80",
    "240.0.0.1:80",
    "255.255.255.255:80",
    "[::1]:80",
    "[::ffff:127.0.0.1]:80",
    "[::127.0.0.1]:80",
    "[fe80::1]:80",
    "[fc00::1]:80",
    "[fec0::1]:80",
    "[64:ff9b::7f00:1]:80",
    "[2002:7f00:1::]:80",
    "[2001::1]:80",
    "[2001:db8::1]:80",
    "[100::1]:80",
]
NEVER = ["0.0.0.0:80", "224.0.0.1:80", "[::]:80", "[ff02::1]:80"]
MALFORMED = [
    "",
    "8.8.8.8",
    "8.8.8.8:",
    "8.8.8.8:0",
    "8.8.8.8:65536",
    "8.8.8.8:+80",
    "8.8.8.8:8_0",
    "8.8.8.8:٨٠",
    "8.8.8.8:-1",
    "example.com:80",
    "2606:4700::1:80",
    "[fe80::1%eth0]:80",
    "010.0.0.1:80",
    "0x7f.0.0.1:80",
    "2130706433:80",
    "8.8.8.8@127.0.0.1:80",
    "[8.8.8.8:80",
    "8.8.8.8:80/path",
    "1" * 5000,
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_accepted_and_written_back(text: str) -> None:
    endpoint = parse_endpoint(text, allow_private=False)
    assert endpoint.authority == text.replace("[::ffff:8.8.8.8]", "8.8.8.8")


@pytest.mark.parametrize("text", INNER)
def test_inner_addresses_are_refused_unless_allowed(text: str) -> None:
    with pytest.raises(AddressRefused, match="accepted: public unicast"):
        parse_endpoint(text, allow_private=False)
    assert parse_endpoint(text, allow_private=True).port == 80


@pytest.mark.parametrize("text", NEVER + MALFORMED)
def test_others_are_never_accepted(text: str) -> None:
    with pytest.raises(AddressRefused):
        parse_endpoint(text, allow_private=True)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_what_is_accepted_is_global(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    text = f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    try:
        endpoint = parse_endpoint(text, allow_private=False)
    except AddressRefused:
        return
    assert endpoint.ip.is_global
    assert not endpoint.ip.is_multicast


@given(st.text(max_size=80), st.booleans())
def test_any_text_is_read_or_refused(text: str, allow_private: bool) -> None:
    try:
        endpoint = parse_endpoint(text, allow_private=allow_private)
    except AddressRefused:
        return
    assert endpoint.authority
