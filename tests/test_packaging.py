"""The wheel: it installs one importable name, its data files are in it, and its commands work without the checkout."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = {
    "perturb/py.typed",
    "perturb/tiers.toml",
    "perturb/prefect.yaml",
    "perturb/models/judge/calibration.json",
    "perturb/models/judge/gemma-3-270m.labels.npz",
    "perturb/sinks/dataset/card.md",
    "perturb/sinks/report/status.html",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build writes into its tree."""
    tree = tmp_path_factory.mktemp("tree")
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"].values()
    for folder in {Path(folder).parts[0] for folder in folders} | {"tests", "benchmarks"}:
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "tiers.toml", "prefect.yaml"):
        shutil.copy(ROOT / name, tree)
    build = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "bdist_wheel"]
    subprocess.run(build, cwd=tree, check=True, capture_output=True, timeout=120)
    (built,) = (tree / "dist").glob("*.whl")
    return built


def test_a_wheel_adds_one_name_and_holds_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("perturb/tiers.toml") == (ROOT / "tiers.toml").read_bytes()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"perturb"}
    assert names >= DATA
    assert {f"perturb/{folder}/__init__.py" for folder in ("cli", "flows/engine", "tasks/verify/gates")} <= names


def test_the_wheels_commands_work_from_an_operators_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import perturb; print(perturb.__file__); from perturb.cli import main; main()"

    def perturb(*arguments: str, cwd: Path) -> str:
        environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
        ran = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(str(site))
        return ran.stdout

    perturb("init", "op", cwd=tmp_path)
    for name in ("tiers.toml", "prefect.yaml"):
        assert (tmp_path / "op" / name).read_bytes() == (ROOT / name).read_bytes()
    assert '"s3:GetObject"' in perturb("tiers", "policy", "--store", "s3://b/p", cwd=tmp_path / "op")
