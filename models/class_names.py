"""Names of classes that are not ImageNet-1k's, from a text file."""

from pathlib import Path

from perturb.schemas.errors import SettingsError


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the names in a text file, a class a line, without empty lines.

    Raises SettingsError for a file that cannot be read, and where a name occurs twice.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--classes {path} can't be read ({error}); accepted: a text file, a name a line"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        raise SettingsError(f"--classes {path} has the same name twice; each class needs a name of its own")
    return names
