"""Tar shards: plain USTAR, the same bytes every time, with the offset of each member's data.

Names follow WebDataset: `{key}.{field}` with no dot in the key. There is one image a member and no other kind of
member, so the whole file follows from its members' names and contents; `check_layout` relies on that.
"""

import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sinks.store import Buffer

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)


class _Sink(Protocol):
    def write(self, data: Buffer, /) -> int: ...
    def tell(self) -> int: ...


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


def header(name: str, length: int) -> bytes:
    """The 512-byte USTAR header of a member: mode 0644, owner 0, mtime 0."""
    info = tarfile.TarInfo(name)
    info.size = length
    return info.tobuf(tarfile.USTAR_FORMAT)


class TarWriter:
    """Appends members to a file that `write`s and `tell`s. Without `finish` the tar is not one."""

    def __init__(self, sink: _Sink):
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

    def finish(self) -> None:
        """Write the end of the archive."""
        self._sink.write(END)


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
