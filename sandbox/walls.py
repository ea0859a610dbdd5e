"""The walls around a decoder, each of which stands where the kernel lets a process without privileges raise it.

`raise_shared_walls` is called once, in the template, which is single-threaded and has imported what it needs;
`raise_own_walls` in each worker. A wall that can't be raised is missing from the result.
Landlock: Linux, Documentation/userspace-api/landlock.rst.
"""

import contextlib
import ctypes
import enum
import mmap
import os
import resource
import struct
from pathlib import Path

from perturb.sandbox.seccomp import restrict_system_calls


class Wall(enum.IntFlag):
    """One wall; a set of them is their union."""

    NO_NEW_PRIVILEGES = enum.auto()
    NO_CAPABILITIES = enum.auto()
    NAMESPACES = enum.auto()
    LANDLOCK_FILES = enum.auto()
    LANDLOCK_NETWORK = enum.auto()
    LANDLOCK_SIGNALS = enum.auto()
    LIMITS = enum.auto()
    SECCOMP = enum.auto()

    @property
    def meaning(self) -> str:
        """What the wall does, for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Wall.NO_NEW_PRIVILEGES: "no program can give it rights (no_new_privs)",
    Wall.NO_CAPABILITIES: "it has no capabilities, also where root started it",
    Wall.NAMESPACES: "it has namespaces of its own for network and IPC: no interface is up",
    Wall.LANDLOCK_FILES: "it can open, make and remove no file (Landlock, Linux 5.13)",
    Wall.LANDLOCK_NETWORK: "it can bind and connect no TCP socket (Landlock, Linux 6.7)",
    Wall.LANDLOCK_SIGNALS: "it can signal no process outside (Landlock, Linux 6.12)",
    Wall.LIMITS: "its memory, files and core dumps are limited",
    Wall.SECCOMP: "it can make no system call except those for its own memory, threads and channel (seccomp)",
}

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
# The lowest version of Landlock's interface that knows so many kinds of access to files: bits of `handled_access_fs`.
_LANDLOCK_FILE_BITS = ((5, 16), (3, 15), (2, 14), (1, 13))


def raise_shared_walls() -> Wall:
    """Raise, for this process and all that it starts, the walls that need no care for each worker; return them."""
    libc = ctypes.CDLL(None, use_errno=True)
    standing = Wall(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        standing |= Wall.NO_NEW_PRIVILEGES
    namespaces = _CLONE_NEWNET | _CLONE_NEWIPC
    # Some systems keep user namespaces from programs without privileges. Root doesn't need one.
    if libc.unshare(_CLONE_NEWUSER | namespaces) == 0 or libc.unshare(namespaces) == 0:
        standing |= Wall.NAMESPACES
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if libc.capset(header, bytes(24)) == 0:
        standing |= Wall.NO_CAPABILITIES
    return standing | _landlock(libc)


def raise_own_walls(address_space: int, template: int) -> Wall:
    """Raise the walls of a worker, whose mappings may have `address_space` bytes, and return them.

    `template` is the id of its parent. The last wall is the filter of system calls: nothing can be opened or started
    afterwards.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.getppid() != template:  # It died before this worker asked to die with it.
        os._exit(1)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    standing = _limit(address_space)
    with contextlib.suppress(OSError):
        restrict_system_calls()
        standing |= Wall.SECCOMP
    return standing


def hide_memory() -> None:
    """Keep other processes of the same user from this one's memory, environment and descriptors in /proc.

    Debuggers then need root, and there is no core dump. Programs that this process starts are not affected.
    """
    with contextlib.suppress(OSError, AttributeError):  # Only Linux has `prctl`.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _landlock(libc: ctypes.CDLL) -> Wall:
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return Wall(0)
    bits = next(bits for least, bits in _LANDLOCK_FILE_BITS if version >= least)
    network, signals = version >= 4, version >= 6
    attributes = struct.pack("=Q", (1 << bits) - 1)
    if network:
        attributes += struct.pack("=Q", 0b11)
    if signals:
        attributes += struct.pack("=Q", 0b11)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return Wall(0)
    restricted = libc.syscall(_LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    if not restricted:
        return Wall(0)
    walls = Wall.LANDLOCK_FILES
    if network:
        walls |= Wall.LANDLOCK_NETWORK
    if signals:
        walls |= Wall.LANDLOCK_SIGNALS
    return walls


def mapped_bytes() -> int:
    """Return the size of this process's mappings in bytes; 0 where the system doesn't say."""
    with contextlib.suppress(OSError):  # Only Linux has /proc.
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    return 0


def _limit(address_space: int) -> Wall:
    limits = {
        resource.RLIMIT_AS: address_space,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 16,
    }
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))
    return Wall.LIMITS if all(resource.getrlimit(what)[0] <= most for what, most in limits.items()) else Wall(0)
