"""`perturb init`: an operator's folder, from which every command works without the project's checkout."""

from pathlib import Path
from typing import Annotated

import typer

from perturb.cli.output import say


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command(rich_help_panel="Operate")(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to write into; created where it does not exist.")
    ] = Path(),
) -> None:
    """Write perturb.toml, tiers.toml and prefect.yaml into a folder, to run `perturb` from there.

    perturb.toml lists every setting with its default. Files that exist are kept.
    """
    from importlib.resources import files

    from perturb.schemas.errors import SettingsError
    from perturb.schemas.settings import FILE
    from perturb.schemas.settings_file import commented_settings

    shipped = files("perturb")
    texts = {FILE: commented_settings()} | {
        name: (shipped / name).read_text(encoding="utf-8") for name in ("tiers.toml", "prefect.yaml")
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            path = folder / name
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                say(f"{path} exists and is kept")
            else:
                say(f"{path} written")
    except OSError as error:
        raise SettingsError(
            f"{error.filename or folder} cannot be written ({error.strerror}); name a folder that you may write to"
        ) from error
