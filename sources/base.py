"""What every source of clean photographs can do."""

from collections.abc import Iterator
from typing import Protocol

from perturb.schemas.challenge import Photo


class Source(Protocol):
    """A place that photographs come from.

    To add one: write a class with these three members in a module of its own, and a line in
    `perturb.sources.open_source`.
    """

    @property
    def name(self) -> str:
        """What `Photo.source` says."""

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Photographs in an order that `seed` fixes (None: another one each time); each source says if it ends.

        An image that can't be used is left out, with its reason logged. Raises SourceError when nothing can be had.
        """

    def check(self) -> str:
        """One line about what was found there. Raises SourceError when it is not usable, and says what to do."""
