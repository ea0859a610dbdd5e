"""Who may make an attempt, and when: the waiting line, and how many attempts an address makes in a minute."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_MINUTE = 60.0
_RETRY_SECONDS = 5


class Refused(Exception):
    """What a visitor gets instead of an attempt: a status, a sentence, and when to come back."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


class Line:
    """The waiting line before the one thread that enters the networks."""

    def __init__(self, length: int):
        self._length = length
        self._thread = ThreadPoolExecutor(1, "attempt")
        self._places: deque[object] = deque()

    def enter(self) -> object:
        """Take a place; raises Refused (503) where the line is full."""
        # One attempt is at work, the others wait.
        if len(self._places) > self._length:
            raise Refused(503, f"{len(self._places)} attempts are waiting; try again in a moment", _RETRY_SECONDS)
        ticket = object()
        self._places.append(ticket)
        return ticket

    def place(self, ticket: object) -> int:
        """Return how many attempts are before this one."""
        return self._places.index(ticket)

    def leave(self, ticket: object) -> None:
        """Give the place to the next."""
        self._places.remove(ticket)

    def submit(self, call: Callable[[], None]) -> "asyncio.Future[None]":
        """Run `call` on the thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, call)

    @property
    def waiting(self) -> int:
        """The number of attempts, the one at work included."""
        return len(self._places)

    def close(self) -> None:
        """End the thread when its attempt ends."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Bodies:
    """How many bodies are being read at once, so that their bytes do not fill the memory."""

    def __init__(self, most: int):
        self._most = most
        self._reading = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one for as long as the block lasts; raises Refused (503) where so many are read already."""
        if self._reading >= self._most:
            raise Refused(503, "too many photographs are arriving; try again in a moment", _RETRY_SECONDS)
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1


class Rates:
    """How many attempts each address made in the last minute."""

    def __init__(self, most: int):
        self._most = most
        self._times: dict[str, deque[float]] = {}

    def count(self, address: str) -> None:
        """Count an attempt; raises Refused (429) where the address made too many."""
        now = time.monotonic()
        for known in [known for known, times in self._times.items() if times[-1] < now - _MINUTE]:
            del self._times[known]
        times = self._times.setdefault(address, deque(maxlen=self._most))
        if len(times) == self._most and times[0] > now - _MINUTE:
            wait = int(times[0] + _MINUTE - now) + 1
            raise Refused(429, f"{self._most} attempts a minute are accepted; go on in {wait} s", wait)
        times.append(now)
