"""The import name of the project: `perturb.tasks` is the folder `tasks/`, and so on."""

from pathlib import Path

# The packages lie beside this one in a checkout. An installed wheel has them inside it and needs nothing.
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))
