"""The version of the corpus' formats, and reading of documents that state it."""

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError

FORMAT = 2
# Of earlier versions, record ids do not say their day, days have no log and no state of miners; none was in production.
OLDEST = 2


class Document(BaseModel):
    """A document that states its format version, and that one sequence of bytes stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int

    def to_json(self) -> bytes:
        """Return the document as canonical JSON: the only bytes that `parse_document` accepts for it."""
        return canonical_json(self.model_dump(mode="json"))


_Document = TypeVar("_Document", bound=Document)


def check_format(value: object, where: str) -> None:
    """Raise CorpusError unless this program reads format version `value`, which the document at `where` states."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < OLDEST:
        raise CorpusError(
            f"{where} has format version {value}, which this program no longer reads; accepted: {OLDEST} to {FORMAT}. "
            "Name an empty store for a new corpus, or read the old one with the version of perturb that wrote it"
        )
    if not isinstance(value, int) or isinstance(value, bool) or value < OLDEST:
        raise CorpusError(f"{where} has format version {value!r}; accepted: integers from {OLDEST} to {FORMAT}")
    if value > FORMAT:
        raise CorpusError(
            f"{where} has format version {value}, this program reads up to {FORMAT}; upgrade perturb to read it"
        )


def parse_document(
    model: type[_Document], data: bytes, where: str, *, hint: str = "restore it from a copy"
) -> _Document:
    """Return a JSON document that states its `format`, as `model`.

    Raises CorpusError that names `where` when the data are not JSON (with `hint`), when this program does not read the
    format version, when a field is missing, unknown or invalid, and when the data are not the document's canonical
    JSON: of a key that stands twice, or a number written as text, another program may read another value.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} is not JSON; {hint}") from error
    check_format(fields.get("format") if isinstance(fields, dict) else None, where)
    try:
        document = model.model_validate(fields)
        canonical = document.to_json()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "files"
        raise CorpusError(f"{where}: field {name}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where} has a value that cannot be written as JSON: {error}") from error
    if canonical != data:
        raise CorpusError(
            f"{where} is not canonical JSON (keys sorted and each once, no other spacing, numbers not as text): "
            f"it differs from byte {_first_difference(canonical, data)} on; {hint}"
        )
    return document


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), min(len(one), len(other)))
