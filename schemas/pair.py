"""An original and its perturbed image, with what the corpus says about them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from perturb.schemas.record import Record, Row


@dataclass(frozen=True)
class Pair:
    """One verified pair as it came from a corpus or an export: the bytes of both PNGs and the metadata row.

    `row` has the columns that its reader was granted: all of them in a corpus, a tier's in an export.
    """

    original: bytes
    perturbed: bytes
    row: Row

    @property
    def record(self) -> Record:
        """The row as a record. Raises pydantic's ValidationError where columns are missing."""
        return Record.model_validate(self.row)


Reverify = Callable[[Sequence[Pair]], Iterable[str | None]]
"""Verifies the records of accepted pairs again: for each, in their order, None if every stored claim holds, else the
faults in one sentence.

The call may return before the work is done. The caller then waits where it reads the answers.
"""
