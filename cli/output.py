"""How every command speaks: tables for people, and one JSON object as the last line for programs."""

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on the last line of standard output.")]
Store = Annotated[
    str | None,
    typer.Option(help="Directory or s3://bucket/prefix \\[default: PERTURB_STORE, else ./data].", show_default=False),
]


def say(*parts: Any) -> None:
    """Prints text or rich renderables to standard output."""
    from rich.console import Console

    Console().print(*parts, highlight=False)


def say_json(payload: dict[str, Any]) -> None:
    """Prints the closing JSON object, on one line."""
    import json

    typer.echo(json.dumps(payload, default=str, ensure_ascii=False))


def read_file(path: Path, argument: str) -> bytes:
    """The bytes of a file named on the command line. Raises SettingsError that names the argument."""
    from perturb.schemas.errors import SettingsError

    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{argument} {path} can't be read ({error.strerror}); name an existing file") from error


def table(title: str, columns: list[str], rows: list[tuple[Any, ...]]) -> Any:
    """A rich table; numbers are shown to four significant digits."""
    from rich.table import Table

    drawn = Table(*columns, title=title, title_justify="left", show_header=any(columns))
    for row in rows:
        drawn.add_row(
            *(f"{cell:.4g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row)
        )
    return drawn
