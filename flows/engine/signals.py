"""A clean end on SIGTERM and Ctrl-C: the flow is told, finishes what can be finished, and returns."""

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
    """Whether the end was asked for. `then` is called once, by whoever asks."""

    def __init__(self, then: Callable[[], None]):
        self._then = then
        self.asked = False

    def ask(self) -> None:
        """Ask for the end; asking again changes nothing."""
        if not self.asked:
            self.asked = True
            self._then()


@contextmanager
def stopped_by_signals(then: Callable[[], None]) -> Iterator[Stop]:
    """A `Stop` that the first SIGTERM or SIGINT asks; the second one does what it did before this block.

    Outside the main thread, where no handler can be set, nothing is caught.
    """
    stop = Stop(then)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, _: FrameType | None) -> None:
        restore()
        logger.warning("%s: finishing the round that was answered, then stopping", signal.Signals(number).name)
        stop.ask()

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


def deaf_to_interrupts(start: Callable[[], T]) -> T:
    """What `start` returns or raises; the processes and threads that it starts hear no Ctrl-C.

    A terminal sends the signal to everybody in the foreground. What a thread blocks, whatever it starts inherits as
    blocked; a thread of ours lives only for that, and the main thread goes on hearing signals.
    """

    # Started by the first process of `multiprocessing`, and then it would unblock what is blocked here.
    resource_tracker.ensure_running()

    def run() -> T:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return start()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()
