"""The package that is installed is the tree: no folder of modules is left out of the wheel."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_of_modules_is_packaged() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    top = {name.split(".")[1] for name in setuptools["packages"] if "." in name}
    folders = {str(path.parent.relative_to(ROOT)) for name in top for path in (ROOT / name).rglob("*.py")}
    assert {f"perturb.{folder.replace('/', '.')}": folder for folder in folders} | {"perturb": "perturb"} == setuptools[
        "package-dir"
    ]
    assert set(setuptools["packages"]) == set(setuptools["package-dir"])
