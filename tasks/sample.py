"""What sealing and the deep audit hand to whoever verifies records again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from schemas.record import Record


@dataclass(frozen=True)
class Sample:
    """One accepted record with the bytes of its two images, to be verified again from nothing else."""

    record: Record
    original: bytes
    perturbed: bytes


Reverify = Callable[[Sequence[Sample]], Sequence[str | None]]
"""Verifies samples again: for each, in their order, None if every stored claim holds, else what does not."""
