"""Templates and workers as the pool sees them: started, given images, read with distrust, ended.

`perturb.sandbox.template` and `perturb.sandbox.worker` are the insides of the processes.
"""

import contextlib
import fcntl
import logging
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from perturb.sandbox.protocol import (
    FORK,
    FORKED,
    FORKED_MARK,
    HELLO,
    HELLO_MARK,
    MOST_DETAIL,
    REPLY,
    REQUEST,
    Room,
    pixels_in,
)
from perturb.sandbox.walls import Wall, hide_memory
from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels
from perturb.schemas.import_root import import_root

logger = logging.getLogger(__name__)
_START_SECONDS = 60.0
#: The reason that this side gives for what only it can see.
DECODER_FAILED = "decoder_failed"


@dataclass(frozen=True)
class Refusal:
    """Why an image is not decoded: one of the reasons that the decoder may give, and a sentence about it."""

    reason: str
    detail: str


@dataclass(eq=False)
class Template:
    """A running template and the socket over which it is asked for workers."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    @classmethod
    def start(cls, *, memory_limit: int, decoder: str, search_path: Sequence[Path]) -> Self:
        """Start a template whose workers may allocate `memory_limit` bytes and decode with `decoder`.

        `decoder` is "module:function", found beside this project and on `search_path`. Raises PerturbError, with the
        template's last words, where it doesn't become ready.
        """
        hide_memory()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "perturb.sandbox.template",
                    str(theirs.fileno()),
                    str(memory_limit),
                    decoder,
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_bare_environment([import_root(), *map(str, search_path)]),
            )
        template = cls(process, ours)
        try:
            ready = ours.recv(16) == b"ready"
        except OSError:
            ready = False
        if not ready:
            said = template.end().splitlines() or ["nothing"]
            raise PerturbError(
                f"the sandboxed image decoder doesn't start: exit code {process.returncode}, it said {said[-1]!r}; "
                f"check that {sys.executable} can import PIL and numpy"
            )
        return template

    def fork(self, room: Room) -> "Worker":
        """Ask for a worker with a room of its own. Returns before it runs. Raises OSError without a template."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        descriptor, memory = _shared_memory(room.size)
        try:
            socket.send_fds(self.control, [FORK.pack(room.pixels, room.data)], [theirs.fileno(), descriptor])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(descriptor)
        return Worker(ours, memory, room)

    def end(self) -> str:
        """Kill the template, and with it its workers; wait for it, and return what it wrote to stderr."""
        self.control.close()
        self.process.kill()
        if self.process.stderr is None or self.process.stderr.closed:
            return ""
        _, said = self.process.communicate()
        return (said or b"").decode(errors="replace")


@dataclass(eq=False)
class Worker:
    """A decoder for the images of one call, the channel to it, and the memory that is shared with it alone."""

    channel: socket.socket
    memory: mmap.mmap
    room: Room
    #: Its process, as an id and as a descriptor that stays its own when the id is given to another; -1 until known.
    pid: int = -1
    handle: int = -1
    standing: Wall | None = None

    def wait_until_ready(self) -> None:
        """Wait until it serves. Raises OSError where it doesn't."""
        while self.pid < 0 or self.standing is None:
            message, descriptors, _, _ = socket.recv_fds(self.channel, HELLO.size, 1)
            if len(message) == FORKED.size and message.startswith(FORKED_MARK) and descriptors:
                _, self.pid = FORKED.unpack(message)
                (self.handle,) = descriptors
            elif len(message) == HELLO.size and message.startswith(HELLO_MARK):
                self.standing = Wall(HELLO.unpack(message)[1])
            else:
                raise ConnectionResetError("a decoder process ended at its start")

    def alive(self) -> bool:
        """Return whether its process still runs."""
        return not select.select([self.handle], [], [], 0)[0]

    def ask(self, data: bytes, *, height: int, width: int) -> None:
        """Hand over one image, of a known size or of any (0 and 0). A dead worker shows when its answer is read."""
        self.memory[self.room.data_at(len(data))] = data
        with contextlib.suppress(OSError):
            self.channel.send(REQUEST.pack(height, width, len(data)))

    def answer(
        self, seconds: float, *, height: int, width: int, reasons: frozenset[str]
    ) -> tuple[bool, Pixels | Refusal]:
        """Return whether the worker can go on, and the image or why it is refused.

        A malicious image may control the process, so the reply is checked: pixels of the size that was asked for and
        that fit into the room, a reason of `reasons`, or else the worker is not believed.
        """
        self.channel.settimeout(seconds)
        try:
            reply = self.channel.recv(REPLY.size + MOST_DETAIL + 1)
            if len(reply) >= REPLY.size:
                size, said = REPLY.unpack_from(reply), reply[REPLY.size :]
                if not said and self._fits(size, asked=(height, width)):
                    # A copy: a compromised worker can't change afterwards what was verified.
                    return True, pixels_in(self.memory, *size).copy()
                reason, _, detail = said.decode(errors="replace").partition("\n")
                if size == (0, 0) and len(said) <= MOST_DETAIL and reason in reasons:
                    return True, Refusal(reason, detail)
            logger.warning("a decoder process %s", "sent an invalid reply" if reply else "ended")
        except OSError as error:
            logger.warning("a decoder process stopped in mid-answer: %s", error)
        return False, Refusal(DECODER_FAILED, "the image ended the process that decoded it")

    def _fits(self, size: tuple[int, ...], *, asked: tuple[int, int]) -> bool:
        height, width = size
        return 0 < height * width * 3 <= self.room.pixels and (asked == (0, 0) or size == asked)

    def end(self) -> None:
        """Kill the process. One whose start is not known yet ends by itself, because its channel does."""
        if self.pid < 0:
            with contextlib.suppress(OSError):
                self.channel.settimeout(0)
                self.wait_until_ready()
        self.channel.close()
        if self.handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)
            os.close(self.handle)
            self.handle = -1


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """Return the descriptor and a mapping of new memory, zeros, that nobody can make shorter or longer."""
    descriptor = os.memfd_create("perturb-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise


def _bare_environment(import_path: Sequence[str]) -> dict[str, str]:
    # No secret belongs into a process that reads hostile bytes.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    # glibc would give each image's memory back and fetch it again, page by page.
    keep_memory = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**28)}
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **keep_memory, **threads, "PYTHONPATH": os.pathsep.join(import_path)}
