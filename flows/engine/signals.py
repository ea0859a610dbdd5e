"""A clean end on SIGTERM and Ctrl-C: the flow is told, finishes the round that was answered, and returns."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the end was requested. `then` is called once, by the first request."""

    def __init__(self, then: Callable[[], None]):
        self._then = then
        self.requested = False

    def request(self) -> None:
        """Request the end; a second request changes nothing."""
        if not self.requested:
            self.requested = True
            self._then()


@contextmanager
def stopped_by_signals(
    then: Callable[[], None],
    *,
    message: str = "finishing the round that was answered, then stopping",
    again: Callable[[], None] | None = None,
) -> Iterator[Stop]:
    """Yield a `Stop` that the first SIGTERM or SIGINT requests; a second signal does what it did before this block.

    With `again`, every further signal calls that instead, for as long as the block lasts. `message` is logged with the
    signal's name. Python sets signal handlers in the main thread only: in another thread nothing is caught.
    """
    stop = Stop(then)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, _: FrameType | None) -> None:
        if again is None:
            restore()
        elif stop.requested:
            logger.warning("%s: not waiting any longer", signal.Signals(number).name)
            again()
            return
        logger.warning("%s: %s", signal.Signals(number).name, message)
        stop.request()

    for number in _SIGNALS:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def shielded_from_sigint(start: Callable[[], T]) -> T:
    """Return what `start` returns, and raise what it raises; processes and threads that it starts ignore Ctrl-C.

    A terminal sends SIGINT to all processes in the foreground. Processes and threads inherit the signals that the
    thread which starts them blocks. So `start` runs in a thread of its own that blocks SIGINT; the main thread still
    receives it.
    """

    # The first process of `multiprocessing` starts the resource tracker, which would unblock what is blocked here.
    resource_tracker.ensure_running()

    def run() -> T:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return start()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
