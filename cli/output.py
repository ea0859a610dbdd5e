"""What commands print: text and tables for people, and one JSON object as the last line for programs.

Much of it was written by others: miners' error texts, labels, file names, a corpus' own columns. Such text is printed
as it is: it is never read as markup, and characters that control a terminal are dropped.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from perturb.schemas.clean_text import clean, clean_json, in_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

# Whether the terminal's line is one of `show_progress`.
_progress = False


def say(*parts: "RenderableType") -> None:
    """Print text or rich renderables to standard output. Text is printed as it is, without markup.

    Lines are broken at the width of a terminal only: in a file or a pipe an address or a commitment stays whole.
    """
    from rich.text import Text

    clear_progress()
    console = _console()
    texts = [Text(clean(part)) if isinstance(part, str) else part for part in parts]
    console.print(*texts, soft_wrap=not console.is_terminal and all(isinstance(text, Text) for text in texts))


def show_progress(text: str) -> None:
    """Tell on the terminal how far it is, on one line that is written over; nothing where it is not a terminal."""
    global _progress
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{in_line(text)[:110]}")
        sys.stderr.flush()
        _progress = True


def clear_progress() -> None:
    """Remove the line of `show_progress`, so that what is printed next does not go on in it."""
    global _progress
    if _progress:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _progress = False


def styled(*parts: str | tuple[str, str]) -> "Text":
    """Return one line of text from parts, each a string or a string with a rich style. Line breaks become spaces."""
    from rich.text import Text

    return Text.assemble(*(in_line(part) if isinstance(part, str) else (in_line(part[0]), part[1]) for part in parts))


def say_json(payload: Mapping[str, Any]) -> None:
    """Print the closing JSON object, on one line."""
    import json

    typer.echo(clean_json(json.dumps(payload, default=str, ensure_ascii=False)))


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ()
) -> "Table":
    """Return a rich table. Numbers are shown to four significant digits, None as an empty cell.

    Without column names the table has no heading. Long words are cut where the table would be wider than the terminal,
    except in the columns `whole`, where they go on in the next line.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=Text(in_line(title)), title_justify="left", show_header=any(columns))
    for column in drawn.columns:
        if column.header in whole:
            column.overflow = "fold"
    for row in rows:
        drawn.add_row(*(Text(in_line(_shown(cell))) for cell in row))
    return drawn


def facts(title: str, values: Mapping[str, object]) -> "Table":
    """Return a table of names and values, without a heading. Values are shown whole."""
    return table(title, ["", ""], list(values.items()), whole=[""])


def read_file(path: Path, argument: str) -> bytes:
    """Return the bytes of a file named on the command line. Raises SettingsError that names the argument."""
    from perturb.schemas.errors import SettingsError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{argument} {path} can't be read ({error.strerror}); name an existing file") from error


def write_file(path: Path, data: bytes, argument: str, *, private: bool = False) -> None:
    """Write a file named on the command line; a `private` one only this user may read.

    A regular file is replaced in one step, so that neither a link nor an open file of another user under a name that
    can be guessed receives the data. Raises SettingsError that names the argument, also for a link outside /dev.
    """
    from perturb.schemas.errors import SettingsError, StoreError
    from perturb.sinks.report.replace_file import replace_file

    device = path.parent == Path("/dev") or (path.exists() and not path.is_file())
    if path.is_symlink() and not device:
        raise SettingsError(f"{argument} {path} is a link, which is not followed; name a file, or remove the link")
    try:
        if device:
            path.write_bytes(data)
        else:
            replace_file(path, data, mode=0o600 if private else None)
    except StoreError as error:
        raise SettingsError(f"{argument}: {error}") from error
    except OSError as error:
        raise SettingsError(
            f"{argument} {path} can't be written ({error.strerror}); name a file in a folder that you may write to"
        ) from error


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def _shown(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
