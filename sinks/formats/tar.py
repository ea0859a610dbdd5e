"""Tar shards: plain USTAR, the same bytes every time, with the offset of each member's data.

Names follow WebDataset: `{key}.{field}` with no dot in the key. There is one image a member and no other kind of
member, so the whole file follows from its members' names and contents; `check_layout` relies on that.
"""

import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from perturb.sinks.stores.base import Buffer

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


class _Sink(Protocol):
    def write(self, data: Buffer, /) -> int: ...
    def tell(self) -> int: ...


S = TypeVar("S", bound=_Sink)


@dataclass(frozen=True)
class Member:
    """One image in a shard: its file name, and where its data stand (bytes)."""

    name: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where the next member's header begins."""
        return self.offset + self.length + (-self.length % BLOCK)


# A header is the same for every member but for the name, the size and the checksum over all of it, in which the
# checksum's own place counts as spaces (POSIX.1-1988, ustar).
_EMPTY = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_NAME, _SIZE, _CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)
_BETWEEN, _MIDDLE = _EMPTY[_NAME.stop : _SIZE.start], _EMPTY[_SIZE.stop : _CHECKSUM.start]
_REST = _EMPTY[_CHECKSUM.stop :]
_SUM = sum(_BETWEEN) + sum(_MIDDLE) + sum(_REST) + 8 * ord(" ")


def header(name: str, length: int) -> bytes:
    """The 512-byte USTAR header of a member: mode 0644, owner 0, mtime 0.

    Fifteen times as fast as `tarfile`, which would take half of an export's time. Raises ValueError for a name that is
    not ASCII or longer than 100, and for 8 GiB or more.
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) <= _NAME.stop or length >= 8**11:
        raise ValueError(f"member {name!r} of {length} bytes does not fit a USTAR header")
    size = b"%011o\0" % length
    checksum = b"%06o\0 " % (_SUM + sum(encoded) + sum(size))
    return b"".join((encoded.ljust(_NAME.stop, b"\0"), _BETWEEN, size, _MIDDLE, checksum, _REST))


class TarWriter(Generic[S]):
    """Appends members to a file that `write`s and `tell`s. Without `finish` the tar is not one."""

    def __init__(self, sink: S):
        self._sink = sink
        self.members: list[Member] = []

    def add(self, name: str, data: Buffer) -> Member:
        """Append one image; returns where it went."""
        length = memoryview(data).nbytes
        self._sink.write(header(name, length))
        member = Member(name, self._sink.tell(), length)
        self._sink.write(data)
        if padding := -length % BLOCK:
            self._sink.write(bytes(padding))
        self.members.append(member)
        return member

    def finish(self) -> S:
        """Write the end of the archive; returns the file."""
        self._sink.write(END)
        return self._sink


def tar_size(members: Iterable[Member]) -> int:
    """Bytes of the tar that holds exactly these members."""
    return max((member.end for member in members), default=0) + len(END)


def check_layout(members: Sequence[Member], size: int) -> list[str]:
    """What is wrong if a tar of `size` bytes is to hold exactly these members: gaps, overlaps, a missing end."""
    faults, expected = [], 0
    for member in sorted(members, key=lambda member: member.offset):
        if member.offset != expected + BLOCK:
            faults.append(f"{member.name} is said to begin at byte {member.offset}, its place is {expected + BLOCK}")
        expected = member.end
    if size != expected + len(END):
        faults.append(f"the tar has {size} bytes, its members take {expected + len(END)}")
    return faults
