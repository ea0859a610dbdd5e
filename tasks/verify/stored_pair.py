"""What sealing and the deep audit hand to whoever verifies records again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from perturb.schemas.record import Record


@dataclass(frozen=True)
class Sample:
    """One accepted record with the bytes of its two images, to be verified again from nothing else."""

    record: Record
    original: bytes
    perturbed: bytes


Reverify = Callable[[Sequence[Sample]], Iterable[str | None]]
"""Verifies samples again: for each, in their order, None if every stored claim holds, else what does not.

The call may return before the work is done, which then is waited for where the answers are read.
"""
