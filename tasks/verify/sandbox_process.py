"""One sandboxed decoder process, as the pool sees it: started, given images, read with distrust, ended.

`perturb.tasks.verify.sandbox_worker` is the inside of the process.
"""

import contextlib
import logging
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels
from perturb.schemas.import_root import import_root
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused
from perturb.tasks.verify.sandbox_protocol import (
    MOST_DETAIL,
    REPLY,
    REQUEST,
    compressed_at,
    memory_bytes,
    pixels_in,
)

logger = logging.getLogger(__name__)
_START_SECONDS = 60.0
_REFUSALS = frozenset({Outcome.CORRUPT, Outcome.TRAILING_DATA, Outcome.DECODER_FAILED})


@dataclass(eq=False)
class DecoderProcess:
    """A running decoder, the socket to it, and the memory that is shared with it alone, for its life."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    memory: mmap.mmap | None = None

    @classmethod
    def spawn(cls, *, memory_limit: int, decoder: str, search_path: Sequence[Path]) -> Self:
        """Start a process that may allocate `memory_limit` bytes and decodes with `decoder` ("module:function").

        The module is looked for beside this project and on `search_path`. Returns before the process is ready.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(_START_SECONDS)
        worker = [sys.executable, "-P", "-m", "perturb.tasks.verify.sandbox_worker"]
        with theirs:
            process = subprocess.Popen(
                [*worker, str(theirs.fileno()), str(memory_limit), decoder],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_bare_environment([import_root(), *map(str, search_path)]),
            )
        return cls(process, ours)

    def wait_until_ready(self) -> None:
        """Wait for the process to say that it is ready. Raises PerturbError, with its last words, where it doesn't."""
        try:
            ready = len(self.channel.recv(REPLY.size, socket.MSG_WAITALL)) == REPLY.size
        except OSError:
            ready = False
        if not ready:
            said = self.end().splitlines() or ["nothing"]
            raise PerturbError(
                f"the sandboxed image decoder doesn't start: exit code {self.process.returncode}, it said "
                f"{said[-1]!r}; check that {sys.executable} can import PIL and numpy"
            )

    def ask(self, compressed: bytes, *, height: int, width: int) -> None:
        """Hand over one image. A memory that is too small for its size is replaced."""
        needed, descriptors = memory_bytes(height, width), []
        if self.memory is None or len(self.memory) < needed:
            descriptor, self.memory = _shared_memory(needed)
            descriptors = [descriptor]
        self.memory[compressed_at(height, width, len(compressed))] = compressed
        with contextlib.suppress(OSError):  # A dead worker is found out when its answer is read.
            socket.send_fds(self.channel, [REQUEST.pack(height, width, len(compressed))], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def answer(self, seconds: float, *, height: int, width: int) -> tuple[bool, Pixels | PngRefused]:
        """Return whether the process can go on, and the image or why it is refused.

        A malicious image may control the process, so the reply is validated.
        """
        self.channel.settimeout(seconds)
        try:
            head = self.channel.recv(REPLY.size, socket.MSG_WAITALL)
            if len(head) == REPLY.size:
                (length,) = REPLY.unpack(head)
                if length == 0:
                    return True, self._pixels(height, width)
                if length <= MOST_DETAIL:
                    text = self.channel.recv(length, socket.MSG_WAITALL).decode(errors="replace")
                    outcome, _, detail = text.partition("\n")
                    if outcome in _REFUSALS:
                        return True, PngRefused(Outcome(outcome), detail)
            logger.warning("a decoder process sent an invalid reply")
        except OSError as error:
            logger.warning("a decoder process stopped in mid-answer: %s", error)
        return False, PngRefused(Outcome.DECODER_FAILED, "the image ended the process that decoded it")

    def _pixels(self, height: int, width: int) -> Pixels:
        # A copy: a compromised worker can't change afterwards what was verified.
        assert self.memory is not None
        return pixels_in(self.memory, height, width).copy()

    def end(self) -> str:
        """Kill the process, wait for it, and return what it wrote to stderr."""
        self.channel.close()
        self.process.kill()
        if self.process.stderr is None or self.process.stderr.closed:
            return ""
        _, said = self.process.communicate()
        return (said or b"").decode(errors="replace")


def _bare_environment(import_path: Sequence[str]) -> dict[str, str]:
    # No secret belongs into a process that reads hostile bytes.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    # glibc would give each image's memory back and fetch it again, page by page.
    keep_memory = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**28)}
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | keep_memory | threads | {"PYTHONPATH": os.pathsep.join(import_path)}


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """Return an open descriptor, which is the caller's to close, and its mapping. Its size is sealed where possible."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("perturb-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        _seal_size(descriptor)
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise


def _seal_size(descriptor: int) -> None:
    # A worker that shrank the memory would kill this process at its next read.
    if hasattr(os, "memfd_create"):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
