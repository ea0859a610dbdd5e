"""The end of an attack that does not return: the challenge's time, as for a miner whose answer never comes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from perturb.attacks.observer import AttackStopped


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End the block after so many seconds by AttackStopped, which attacks do not catch.

    It works on the main thread alone, where Python handles signals; elsewhere there is no limit. Compiled code is ended
    when it returns to Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise AttackStopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
