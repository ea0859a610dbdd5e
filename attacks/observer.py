"""Who watches an attack: every candidate that it tries is shown as the image that would be sent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perturb.schemas.image import Pixels


@dataclass(frozen=True)
class Candidate:
    """One image that an attack tried: uint8 (H, W, 3), and what the classifier says of it.

    `margin` is the best other logit minus the true one, `logits` float32 (classes,) where the attack computed them,
    `levels` and `changed` the largest and the number of changed channel values, `holds` whether it is an answer.
    """

    pixels: Pixels
    margin: float
    logits: npt.NDArray[np.float32] | None
    levels: int
    changed: int
    inside: bool
    holds: bool


Watcher = Callable[[Candidate], None]
"""Called with each candidate, on the attack's thread. It ends the attack by raising `AttackStopped`."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class AttackStopped(BaseException):
    """Raised by a watcher to end an attack. No `except Exception` of an attack stops it."""


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Show `watcher` the candidates of attacks that run inside the block, on this thread."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def watcher() -> Watcher | None:
    """Return who watches attacks of this thread, or None."""
    return _watcher.get()
