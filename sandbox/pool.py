"""Decoding of hostile images, in processes that may die and are used once.

    with DecodePool() as pool:
        decoded = pool.decode(bodies, height=224, width=224)   # Pixels or PngRefused, in the order of the bodies

`Workers` is the pool for files of any kind, `DecodePool` the one for PNGs of a known size: it checks their structure
here, with slices and checksums, and decodes equal files once. Decoding happens in worker processes behind walls
(`perturb.sandbox.walls`), with a limit on memory and a deadline for each image. A worker that dies or hangs is
replaced, and the image that it was decoding is refused; the others are not touched. Workers live for one call. Those
of the next call are forked while this one's results are used.
"""

import atexit
import logging
import os
import selectors
import threading
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from perturb.sandbox.process import DECODER_FAILED, Refusal, Template, Worker
from perturb.sandbox.protocol import Room
from perturb.sandbox.requirement import check_walls
from perturb.sandbox.walls import Wall
from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused, check_png, max_png_bytes

logger = logging.getLogger(__name__)


class Workers:
    """Worker processes that decode images. Starts them when first used; thread-safe; close it or use it in a `with`.

    `count` 0 takes one for each CPU, at most 16. `memory_bytes` is what a worker may allocate beyond its start,
    `seconds` what one image may take. `decoder` names the function that decodes, found on `search_path`: it takes the
    data, `height` and `width`, which are 0 where the image decides, and raises PngRefused. `reasons` are the outcomes
    that it may give.
    """

    def __init__(
        self,
        decoder: str,
        *,
        reasons: Iterable[str],
        count: int = 0,
        memory_bytes: int = 512 * 2**20,
        seconds: float = 10.0,
        search_path: Sequence[Path] = (),
    ):
        self._count = count or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        self.seconds = seconds
        self.reasons = frozenset({*reasons, DECODER_FAILED})
        self._memory_bytes, self._decoder, self._search_path = memory_bytes, decoder, search_path
        self._template: Template | None = None
        self._ahead: list[Worker] = []
        self._using: list[Worker] = []
        self._kept = False
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all processes. The pool can be used again: it starts new ones."""
        with self._lock:
            self._end()

    def processes(self) -> list[int]:
        """Return the process ids of the template and of the workers of a call that is going on."""
        template = [self._template.process.pid] if self._template else []
        return template + [worker.pid for worker in self._using if worker.pid >= 0]

    def standing(self) -> Wall:
        """Return the walls that stand around a worker. Starts one to see. Raises PerturbError where it can't."""
        with self._lock, self._borrowed(1, Room(3, 1)) as (worker,):
            assert worker.standing is not None  # It is ready.
            return worker.standing

    def decode_each(
        self, images: Sequence[bytes], room: Room, *, height: int = 0, width: int = 0
    ) -> Iterator[tuple[bytes, Pixels | Refusal]]:
        """Yield each image, which must fit into the room, with its pixels or its refusal, as they come.

        Raises PerturbError when worker processes can't be started at all.
        """
        if not images:
            return
        with self._lock, self._borrowed(min(self._count, len(images)), room) as workers:
            yield from _Batch(self, workers, images, height=height, width=width).results()

    def replace(self, worker: Worker) -> Worker:
        """End a worker and return another, started in its place."""
        worker.end()
        logger.warning("a decoder process was lost; starting another")
        self._using.remove(worker)
        (replacement,) = self._ready(1, worker.room)
        return replacement

    @contextmanager
    def _borrowed(self, count: int, room: Room) -> Generator[list[Worker]]:
        """Lend fresh workers for one call. What they have seen ends with them, whatever became of the call."""
        try:
            yield self._ready(count, room)
        except BaseException:
            self._end_all(self._using)
            raise
        if self._kept:
            self._ahead[:0], self._using = self._using, []
            return
        self._end_all(self._using)
        self._fork_ahead(count, room)

    @contextmanager
    def kept(self) -> Generator[None]:
        """Use the same workers for all calls inside, as for one round. Calls of other threads wait for the end."""
        with self._lock:
            if self._kept:
                raise RuntimeError("the workers are kept already")
            self._kept = True
            try:
                yield
            finally:
                self._kept = False
                rooms = [worker.room for worker in self._ahead]
                self._end_all(self._ahead)
            if rooms:
                self._fork_ahead(len(rooms), rooms[0])

    def _fork_ahead(self, count: int, room: Room) -> None:
        try:
            # The next call likely wants as many, of the same size.
            self._ahead += [self._fork(room) for _ in range(count - len(self._ahead))]
        except (OSError, PerturbError) as error:
            logger.warning("decoder processes can't be started ahead: %s", error)

    def _ready(self, count: int, room: Room) -> list[Worker]:
        """Return workers that serve, those that were forked ahead first."""
        if self._template is not None and self._template.process.poll() is not None:
            logger.warning("the template of the decoders was lost; starting another")
            self._end()
        fitting = [worker for worker in self._ahead if worker.room.holds(room)]
        self._end_all([worker for worker in self._ahead if worker not in fitting])
        taken, self._ahead = fitting[:count], fitting[count:]
        taken += [self._fork(room) for _ in range(count - len(taken))]
        self._using += taken
        ready = [self._waited_for(worker) for worker in taken]
        for worker in ready:
            assert worker.standing is not None
            check_walls(worker.standing)
        return ready

    def _waited_for(self, worker: Worker) -> Worker:
        """Wait for a worker. One that was killed before it had anything to do is replaced once."""
        for last in (False, True):
            try:
                worker.wait_until_ready()
                if worker.alive():
                    return worker
            except OSError as error:
                if last:
                    raise PerturbError(f"a sandboxed image decoder doesn't start: {error}") from error
            worker.end()
            self._using.remove(worker)
            worker = self._fork(worker.room)
            self._using.append(worker)
        raise PerturbError("sandboxed image decoders end before they are used; does something kill them?")

    def _fork(self, room: Room) -> Worker:
        if self._template is None:
            self._template = Template.start(
                memory_limit=self._memory_bytes, decoder=self._decoder, search_path=self._search_path
            )
        try:
            return self._template.fork(room)
        except OSError as error:
            self._end()
            raise PerturbError(f"a sandboxed image decoder can't be started: {error}") from error

    def _end(self) -> None:
        self._end_all(self._using)
        self._end_all(self._ahead)
        if self._template is not None:
            self._template.end()
            self._template = None

    @staticmethod
    def _end_all(workers: list[Worker]) -> None:
        for worker in workers:
            worker.end()
        workers.clear()


class _Batch:
    """One call's images on their way through the workers of a pool."""

    def __init__(self, pool: Workers, workers: Iterable[Worker], images: Iterable[bytes], *, height: int, width: int):
        self._pool = pool
        self._waiting = deque(images)
        self._idle = deque(workers)
        # Perhaps the system took a process for its own reasons: so many images get a second chance.
        self._retries = 2 * len(self._idle)
        self._height, self._width = height, width
        #: The workers that are decoding, each with its image and the time at which it must have finished.
        self._busy: dict[Worker, tuple[bytes, float]] = {}

    def results(self) -> Iterator[tuple[bytes, Pixels | Refusal]]:
        """Yield each image with its pixels or its refusal, as they come."""
        with selectors.DefaultSelector() as selector:
            while self._waiting or self._busy:
                self._hand_out(selector)
                wait = min(deadline for _, deadline in self._busy.values()) - time.monotonic()
                ready = {key.data for key, _ in selector.select(max(0.0, wait))}
                for worker, (image, deadline) in list(self._busy.items()):
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
            self._busy[worker] = (image, time.monotonic() + self._pool.seconds)
            selector.register(worker.channel, selectors.EVENT_READ, worker)
            worker.ask(image, height=self._height, width=self._width)

    def _collect(self, worker: Worker, selector: selectors.BaseSelector, *, answered: bool) -> Pixels | Refusal | None:
        """Return what a worker made of its image, or None where the image gets a second chance."""
        seconds = self._pool.seconds
        if answered:
            alive, result = worker.answer(seconds, height=self._height, width=self._width, reasons=self._pool.reasons)
        else:
            alive, result = False, Refusal(DECODER_FAILED, f"decoding took more than the {seconds:g} s of one image")
        selector.unregister(worker.channel)
        del self._busy[worker]
        # The one that replaces a lost one is needed only where images are left.
        chance = not alive and answered and self._retries > 0
        if alive:
            self._idle.append(worker)
        elif self._waiting or chance:
            self._idle.append(self._pool.replace(worker))
        if chance:
            self._retries -= 1
            return None
        return result


class DecodePool:
    """A pool for PNGs of a known size. Thread-safe; close it or use it in a `with`. The arguments are `Workers`'."""

    def __init__(
        self,
        *,
        workers: int = 0,
        memory_bytes: int = 512 * 2**20,
        seconds: float = 10.0,
        decoder: str = "perturb.schemas.png:decode_pixels",
        search_path: Sequence[Path] = (),
    ):
        self._workers = Workers(
            decoder,
            reasons=(Outcome.CORRUPT, Outcome.TRAILING_DATA),
            count=workers,
            memory_bytes=memory_bytes,
            seconds=seconds,
            search_path=search_path,
        )
        self.processes, self.standing = self._workers.processes, self._workers.standing
        self.kept, self.close = self._workers.kept, self._workers.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

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
        room = Room(height * width * 3, max_png_bytes(height, width))
        for compressed, result in self._workers.decode_each(list(same), room, height=height, width=width):
            if isinstance(result, Refusal):
                results |= {i: PngRefused(Outcome(result.reason), result.detail) for i in same[compressed]}
            else:
                results |= dict.fromkeys(same[compressed], result)
        return [results[index] for index in range(len(bodies))]


_pools: dict[int, DecodePool] = {}
_opening = threading.Lock()


def shared_pool() -> DecodePool:
    """Return the process's own pool, made when first asked for and closed at exit. A forked process has another."""
    with _opening:
        pool = _pools.get(os.getpid())
        if pool is None:
            pool = _pools[os.getpid()] = DecodePool()
            atexit.register(pool.close)
        return pool
