"""The version of the corpus' formats, and which versions this program reads."""

from typing import Any

from perturb.schemas.errors import CorpusError

FORMAT = 1


def check_format(value: Any, where: str) -> None:
    """Raises CorpusError unless this program reads the given format version."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CorpusError(f"{where} has format version {value!r}; accepted: integers from 1 to {FORMAT}")
    if value > FORMAT:
        raise CorpusError(
            f"{where} is of format version {value}, this program reads up to {FORMAT}; upgrade perturb to read it"
        )
