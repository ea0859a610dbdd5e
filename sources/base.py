"""The interface of a source of clean photographs."""

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
        """The value of `Photo.source`."""

    def photos(self, *, seed: int | None) -> Iterator[Photo]:
        """Yield photographs in an order that `seed` fixes (None: another one each time).

        Each source says whether it ends. An image that cannot be used is skipped, and the reason is logged. Raises
        SourceError when there are no usable photographs.
        """

    def check(self) -> str:
        """Return one line about what was found. Raises SourceError, with what to do, when it is not usable."""
