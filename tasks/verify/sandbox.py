"""Decoding of hostile images, in processes that may die.

    with DecodePool() as pool:
        decoded = pool.decode(bodies, height=224, width=224)   # Pixels or PngRefused, in the order of the bodies

The structure of a file is checked here, with slices and checksums. Inflating and unfiltering happens in worker
processes with a limit on memory, an empty environment and a deadline for each image. Equal files are decoded once.
A worker that dies or hangs is replaced, and the image that it was decoding is refused; the others are not touched.
Pixels come back through shared memory (`perturb.tasks.verify.sandbox_protocol`).
"""

import atexit
import logging
import os
import selectors
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused, check_png
from perturb.tasks.verify.sandbox_process import DecoderProcess

logger = logging.getLogger(__name__)


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
        self._memory_bytes, self._decoder, self._search_path = memory_bytes, decoder, search_path
        self._workers: list[DecoderProcess] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. The pool can be used again: it starts new ones."""
        with self._lock:
            for worker in self._workers:
                worker.end()
            self._workers.clear()

    def processes(self) -> list[int]:
        """Return the process ids of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def decode(self, bodies: Sequence[bytes], *, height: int, width: int) -> list[Pixels | PngRefused]:
        """Return for each body its pixels, uint8 (height, width, 3), or why it is refused.

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
                for compressed, result in self._run(same, height=height, width=width):
                    results |= dict.fromkeys(same[compressed], result)
        return [results[index] for index in range(len(bodies))]

    def _run(
        self, images: dict[bytes, list[int]], *, height: int, width: int
    ) -> Iterator[tuple[bytes, Pixels | PngRefused]]:
        self._workers += self._start(min(self._count, len(images)) - len(self._workers))
        batch = _Batch(self, self._workers, images, seconds=self._seconds, height=height, width=width)
        try:
            yield from batch.results()
        finally:
            # A worker that is still decoding would give its answer to the next call, for another image.
            for worker in batch.busy:
                worker.end()
                self._workers.remove(worker)

    def replace(self, worker: DecoderProcess) -> DecoderProcess:
        """End a worker and return another, started in its place."""
        worker.end()
        logger.warning("a decoder process was lost (exit code %s); starting another", worker.process.returncode)
        self._workers.remove(worker)
        (replacement,) = self._start(1)
        self._workers.append(replacement)
        return replacement

    def _start(self, count: int) -> list[DecoderProcess]:
        starting: list[DecoderProcess] = []
        try:
            for _ in range(count):
                starting.append(  # noqa: PERF401  Those that were started before one fails must be ended.
                    DecoderProcess.spawn(
                        memory_limit=self._memory_bytes, decoder=self._decoder, search_path=self._search_path
                    )
                )
            for worker in starting:
                worker.wait_until_ready()
        except (PerturbError, OSError):
            for worker in starting:
                worker.end()
            raise
        return starting


class _Batch:
    """One call's images on their way through the workers of a pool."""

    def __init__(
        self,
        pool: DecodePool,
        workers: Iterable[DecoderProcess],
        images: Iterable[bytes],
        *,
        seconds: float,
        height: int,
        width: int,
    ):
        self._pool = pool
        self._waiting = deque(images)
        self._idle = deque(workers)
        # Perhaps the system took a process for its own reasons: so many images get a second chance.
        self._retries = 2 * len(self._idle)
        self._seconds, self._height, self._width = seconds, height, width
        #: The workers that are decoding, each with its image and the time at which it must have finished.
        self.busy: dict[DecoderProcess, tuple[bytes, float]] = {}

    def results(self) -> Iterator[tuple[bytes, Pixels | PngRefused]]:
        """Yield each image with its pixels or its refusal, as they come."""
        with selectors.DefaultSelector() as selector:
            while self._waiting or self.busy:
                self._hand_out(selector)
                wait = min(deadline for _, deadline in self.busy.values()) - time.monotonic()
                ready = {key.data for key, _ in selector.select(max(0.0, wait))}
                for worker, (image, deadline) in list(self.busy.items()):
                    if worker not in ready and time.monotonic() < deadline:
                        continue
                    result = self._collect(worker, selector, answered=worker in ready)
                    if result is None:
                        self._waiting.append(image)
                    else:
                        yield image, result

    def _hand_out(self, selector: selectors.BaseSelector) -> None:
        """Give every idle worker an image, as long as there are any."""
        while self._waiting and self._idle:
            worker, image = self._idle.popleft(), self._waiting.popleft()
            if worker.process.poll() is not None:  # It died between two calls; no image is to blame.
                worker = self._pool.replace(worker)
            self.busy[worker] = (image, time.monotonic() + self._seconds)
            selector.register(worker.channel, selectors.EVENT_READ, worker)
            worker.ask(image, height=self._height, width=self._width)

    def _collect(
        self, worker: DecoderProcess, selector: selectors.BaseSelector, *, answered: bool
    ) -> Pixels | PngRefused | None:
        """Return what a worker made of its image, or None where the image gets a second chance."""
        if answered:
            alive, result = worker.answer(self._seconds, height=self._height, width=self._width)
        else:
            detail = f"decoding took more than the {self._seconds:g} s of one image"
            alive, result = False, PngRefused(Outcome.DECODER_FAILED, detail)
        selector.unregister(worker.channel)
        del self.busy[worker]
        self._idle.append(worker if alive else self._pool.replace(worker))
        if not alive and answered and self._retries > 0:
            self._retries -= 1
            return None
        return result


_pool: DecodePool | None = None
_opening = threading.Lock()


def shared_pool() -> DecodePool:
    """Return the process's own pool, made when first asked for and closed at exit."""
    global _pool
    with _opening:
        if _pool is None:
            _pool = DecodePool()
            atexit.register(_pool.close)
        return _pool
