"""The questions that the pipeline puts to a judge, and the judge that has no language model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Judgement:
    """A higher `score` means that the two belong together more; None where it was not computed.

    `limit` is True where `score` is a number that the exact score doesn't exceed, which is enough for `holds` False.
    """

    score: float | None
    holds: bool
    limit: bool = False


class Judge(Protocol):
    """The two questions that the pipeline puts to a judge."""

    name: str
    sha256: str | None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return, for each (ImageNet-1k index, subject), whether the label belongs to the subject."""
        ...

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return, for each two ImageNet-1k indices, whether they name the same kind of thing."""
        ...


class NoJudge:
    """The judge without a language model: every label belongs, and only equal labels are the same kind of thing."""

    name = "none"
    sha256: str | None = None

    def belongs(self, pairs: Sequence[tuple[int, str]]) -> list[Judgement]:
        """Return that every label belongs, without a score."""
        return [Judgement(score=None, holds=True) for _ in pairs]

    def same_kind(self, pairs: Sequence[tuple[int, int]]) -> list[Judgement]:
        """Return whether the two labels are the same label."""
        return [Judgement(score=None, holds=first == second) for first, second in pairs]
