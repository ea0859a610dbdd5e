"""The version of the corpus' formats, and reading of documents that state it."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from perturb.schemas.errors import CorpusError

FORMAT = 1
_Document = TypeVar("_Document", bound=BaseModel)


def check_format(value: object, where: str) -> None:
    """Raise CorpusError unless this program reads format version `value`, which the document at `where` states."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CorpusError(f"{where} has format version {value!r}; accepted: integers from 1 to {FORMAT}")
    if value > FORMAT:
        raise CorpusError(
            f"{where} has format version {value}, this program reads up to {FORMAT}; upgrade perturb to read it"
        )


def parse_document(
    model: type[_Document], data: bytes, where: str, *, hint: str = "restore it from a copy"
) -> _Document:
    """Return a JSON document that states its `format`, as `model`.

    Raises CorpusError that names `where` when the data are not JSON (with `hint`), when this program does not read the
    format version, and when a field is missing, unknown or invalid.
    """
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where} is not JSON; {hint}") from error
    check_format(fields.get("format") if isinstance(fields, dict) else None, where)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "files"
        raise CorpusError(f"{where}: field {name}: {first['msg']}") from error
