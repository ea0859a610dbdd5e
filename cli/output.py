"""What commands print: text and tables for people, and one JSON object as the last line for programs.

Much of it was written by others: miners' error texts, labels, file names, a corpus' own columns. Such text is printed
as it is: it is never read as markup, and characters that control a terminal are dropped.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_LINE_BREAKS = {ord(character): " " for character in "\n\r\v\f\x85\u2028\u2029"}
_KEPT = {"\n", "\t"}
# Overrides of the writing direction make a text read as another one.
_DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_DROPPED = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), *_DIRECTION) if chr(code) not in _KEPT}


def clean(text: str) -> str:
    """Return `text` without control characters; line feeds and tabs stay."""
    return text.translate(_DROPPED)


def say(*parts: "RenderableType") -> None:
    """Print text or rich renderables to standard output. Text is printed as it is, without markup."""
    from rich.text import Text

    _console().print(*(Text(clean(part)) if isinstance(part, str) else part for part in parts))


def styled(*parts: str | tuple[str, str]) -> "Text":
    """Return one line of text from parts, each a string or a string with a rich style. Line breaks become spaces."""
    from rich.text import Text

    return Text.assemble(*(_in_line(part) if isinstance(part, str) else (_in_line(part[0]), part[1]) for part in parts))


def say_json(payload: Mapping[str, Any]) -> None:
    """Print the closing JSON object, on one line."""
    import json

    typer.echo(json.dumps(payload, default=str, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> "Table":
    """Return a rich table. Numbers are shown to four significant digits, None as an empty cell.

    Without column names the table has no heading.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=Text(_in_line(title)), title_justify="left", show_header=any(columns))
    for row in rows:
        drawn.add_row(*(Text(_in_line(_shown(cell))) for cell in row))
    return drawn


def facts(title: str, values: Mapping[str, object]) -> "Table":
    """Return a table of names and values, without a heading."""
    return table(title, ["", ""], list(values.items()))


def read_file(path: Path, argument: str) -> bytes:
    """Return the bytes of a file named on the command line. Raises SettingsError that names the argument."""
    from perturb.schemas.errors import SettingsError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{argument} {path} can't be read ({error.strerror}); name an existing file") from error


def write_file(path: Path, data: bytes, argument: str) -> None:
    """Write a file named on the command line. Raises SettingsError that names the argument."""
    from perturb.schemas.errors import SettingsError

    try:
        path.write_bytes(data)
    except OSError as error:
        raise SettingsError(
            f"{argument} {path} can't be written ({error.strerror}); name a file in a folder that you may write to"
        ) from error


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def _in_line(text: str) -> str:
    """Without line breaks, so that a value cannot add lines that look like ours."""
    return clean(text.translate(_LINE_BREAKS))


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
