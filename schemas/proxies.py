"""Loopback addresses are never reached through a proxy."""

import os

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NAMES = ("no_proxy", "NO_PROXY")


def exempt_loopback() -> None:
    """Add the loopback addresses to NO_PROXY of this process and of its children.

    Libraries read the variable in small or in capital letters, so both get the union. A value of `*` stays as it is.
    """
    hosts = [host for name in _NAMES for host in os.environ.get(name, "").replace(",", " ").split()]
    if "*" not in hosts:
        os.environ.update(dict.fromkeys(_NAMES, ",".join(dict.fromkeys([*hosts, *_LOOPBACK]))))
