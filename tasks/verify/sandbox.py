"""Decoding of hostile images, in processes that may die.

    with DecodePool() as pool:
        decoded = pool.decode(bodies, height=224, width=224)   # Pixels or PngRefused, in the order of the bodies

The structure of a file is checked here, with slices and checksums; inflating and unfiltering happens in worker
processes with a limit on memory, an empty environment and a deadline for each image. Equal files are decoded once.
A worker that dies or hangs is replaced, and the image it was at is refused; the others are not touched. Pixels come
back through shared memory.
"""

import atexit
import contextlib
import logging
import mmap
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels
from perturb.schemas.import_root import import_root
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused, check_png, max_png_bytes
from perturb.tasks.verify.sandbox_worker import MOST_DETAIL, REPLY, REQUEST

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
_REFUSALS = frozenset({Outcome.CORRUPT, Outcome.TRAILING_DATA, Outcome.DECODER_FAILED})


class DecodePool:
    """Worker processes that decode PNGs. Starts them when first used; thread-safe; close it or use it in a `with`.

    `workers` 0 takes one for each CPU, at most 16. `memory_bytes` is what a worker may allocate beyond its start,
    `seconds` what one image may take. `decoder` names the function that decodes, found on `search_path`.
    """

    def __init__(
        self,
        *,
        workers: int = 0,
        memory_bytes: int = 512 * 2**20,
        seconds: float = 10.0,
        decoder: str = "perturb.schemas.png:decode_pixels",
        search_path: Sequence[Path] = (),
    ):
        self._count = workers or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self._seconds = seconds
        path = [import_root(), *map(str, search_path)]
        self._command = [
            sys.executable,
            "-P",
            "-c",
            f"import sys; sys.path[:0] = {path!r}; from perturb.tasks.verify.sandbox_worker import main; main()",
        ]
        self._arguments = [str(memory_bytes), decoder]
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers. The pool can be used again: it starts new ones."""
        with self._lock:
            for worker in self._workers:
                worker.end()
            self._workers.clear()

    def processes(self) -> list[int]:
        """The process ids of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def decode(self, bodies: Sequence[bytes], *, height: int, width: int) -> list[Pixels | PngRefused]:
        """For each body its pixels, uint8 (height, width, 3), or why it is refused.

        Raises PerturbError when worker processes can't be started at all.
        """
        results: dict[int, Pixels | PngRefused] = {}
        same: dict[bytes, list[int]] = defaultdict(list)
        for index, body in enumerate(bodies):
            try:
                same[check_png(body, height=height, width=width)].append(index)
            except PngRefused as refused:
                # Its traceback would keep this call's frame, and every body with it, until a garbage collection.
                results[index] = refused.with_traceback(None)
        if same:
            with self._lock:
                for compressed, result in self._run(deque(same), height=height, width=width):
                    results |= dict.fromkeys(same[compressed], result)
        return [results[index] for index in range(len(bodies))]

    def _run(self, jobs: deque[bytes], *, height: int, width: int) -> Iterator[tuple[bytes, Pixels | PngRefused]]:
        missing = min(self._count, len(jobs)) - len(self._workers)
        self._workers += self._start(missing)
        busy: dict[_Worker, tuple[bytes, float]] = {}
        try:
            yield from self._run_on(deque(self._workers), busy, jobs, height=height, width=width)
        finally:
            # Whoever is left at work would give its answer to the next call, for another image.
            for worker in busy:
                worker.end()
                self._workers.remove(worker)

    def _run_on(
        self,
        idle: deque["_Worker"],
        busy: dict["_Worker", tuple[bytes, float]],
        jobs: deque[bytes],
        *,
        height: int,
        width: int,
    ) -> Iterator[tuple[bytes, Pixels | PngRefused]]:
        retries = 2 * len(idle)
        with selectors.DefaultSelector() as selector:
            while jobs or busy:
                while jobs and idle:
                    worker, job = idle.popleft(), jobs.popleft()
                    if worker.process.poll() is not None:  # It died between two calls; no image is to blame.
                        worker = self._replace(worker)
                    busy[worker] = (job, time.monotonic() + self._seconds)
                    selector.register(worker.channel, selectors.EVENT_READ, worker)
                    worker.ask(job, height=height, width=width)
                wait = min(deadline for _, deadline in busy.values()) - time.monotonic()
                ready = {key.data for key, _ in selector.select(max(0.0, wait))}
                for worker in list(busy):
                    job, deadline = busy[worker]
                    if worker not in ready and time.monotonic() < deadline:
                        continue
                    alive, result = (
                        worker.answer(self._seconds, height=height, width=width)
                        if worker in ready
                        else (False, self._too_slow())
                    )
                    selector.unregister(worker.channel)
                    del busy[worker]
                    idle.append(worker if alive else self._replace(worker))
                    if not alive and worker in ready and retries > 0:
                        # Perhaps the system took the process for its own reasons: the image gets another chance.
                        retries -= 1
                        jobs.append(job)
                    else:
                        yield job, result

    def _too_slow(self) -> PngRefused:
        return PngRefused(Outcome.DECODER_FAILED, f"decoding took more than the {self._seconds:g} s of one image")

    def _replace(self, worker: "_Worker") -> "_Worker":
        worker.end()
        logger.warning("a decoder process was lost (exit code %s); starting another", worker.process.returncode)
        self._workers.remove(worker)
        (replacement,) = self._start(1)
        self._workers.append(replacement)
        return replacement

    def _start(self, count: int) -> list["_Worker"]:
        starting: list[_Worker] = []
        try:
            # Not a list made at once: those that were started before one fails must be ended.
            starting.extend(_Worker.spawn(self._command, self._arguments) for _ in range(count))
            for worker in starting:
                worker.wait_until_ready()
        except (PerturbError, OSError):
            for worker in starting:
                worker.end()
            raise
        return starting


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    channel: socket.socket
    memory: mmap.mmap | None = None  # Shared with this worker alone, and for its life: pages are mapped in once.

    @classmethod
    def spawn(cls, command: Sequence[str], arguments: Sequence[str]) -> Self:
        ours, theirs = socket.socketpair()
        ours.settimeout(_START_SECONDS)
        with theirs:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_bare_environment(),
            )
        return cls(process, ours)

    def wait_until_ready(self) -> None:
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
        """Hand over one image; a memory that is too small for its kind is replaced."""
        pixels = height * width * 3
        needed, descriptors = pixels + max_png_bytes(height, width), []
        if self.memory is None or len(self.memory) < needed:
            descriptor, self.memory = _shared_memory(needed)
            descriptors = [descriptor]
        self.memory[pixels : pixels + len(compressed)] = compressed
        with contextlib.suppress(OSError):  # A dead worker is found out when its answer is read.
            socket.send_fds(self.channel, [REQUEST.pack(height, width, len(compressed))], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)

    def answer(self, seconds: float, *, height: int, width: int) -> tuple[bool, Pixels | PngRefused]:
        """Whether the worker lives on, and the image, or why it was refused. It may be in the image's hands by now."""
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
            logger.warning("a decoder process answered nonsense")
        except OSError as error:
            logger.warning("a decoder process stopped in mid-answer: %s", error)
        return False, PngRefused(Outcome.DECODER_FAILED, "the image ended the process that decoded it")

    def _pixels(self, height: int, width: int) -> Pixels:
        # A copy of our own: a worker that goes wild later can't change what was verified.
        assert self.memory is not None
        pixels = np.frombuffer(self.memory, np.uint8, count=height * width * 3)
        return pixels.reshape(height, width, 3).copy()

    def end(self) -> str:
        """Kills the process, waits for it, and returns what it wrote to stderr."""
        self.channel.close()
        self.process.kill()
        if self.process.stderr is None or self.process.stderr.closed:
            return ""
        _, said = self.process.communicate()
        return (said or b"").decode(errors="replace")


def _bare_environment() -> dict[str, str]:
    # No secret of ours belongs into a process that reads hostile bytes.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    # glibc would give each image's memory back and fetch it again, page by page.
    keep_memory = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**28)}
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return kept | keep_memory | threads


def _shared_memory(size: int) -> tuple[int, mmap.mmap]:
    """An open descriptor, which is the caller's to close, and its mapping."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("perturb-decode", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        _seal(descriptor)
        return descriptor, mmap.mmap(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise


def _seal(descriptor: int) -> None:
    # A worker that shrank the memory would kill us at the next read of it.
    if hasattr(os, "memfd_create"):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


_pool: DecodePool | None = None
_opening = threading.Lock()


def shared_pool() -> DecodePool:
    """The process's own pool, made when first asked for and closed at exit."""
    global _pool
    with _opening:
        if _pool is None:
            _pool = DecodePool()
            atexit.register(_pool.close)
        return _pool
