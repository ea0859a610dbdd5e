"""A command does its step itself, and runs as a flow where a Prefect server is configured."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perturb.cli.orchestration import runs_as_flow
from perturb.flows.engine.prefect_settings import server_is_configured
from tests.support.commands import ROOT, perturb
from tests.support.validator_folder import validator_folder

UNNEEDED = {"prefect", "torch", "torchvision", "timm", "transformers", "bittensor", "boto3", "matplotlib"}
URL = "http://127.0.0.1:9/api"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return validator_folder(tmp_path)


def imported(folder: Path, *arguments: str) -> set[str]:
    """The packages that a command imported, after it ended well."""
    code = (
        "import sys\nfrom perturb.cli import main\n"
        "try: main()\nexcept SystemExit as ended: assert ended.code in (None, 0, 8), ended.code\n"
        "print(' '.join(sys.modules))"
    )
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {name.partition(".")[0] for name in ran.stdout.splitlines()[-1].split()}


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PERTURB_", "PREFECT_"))}
    return clean | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")}


@pytest.mark.slow
def test_steps_import_what_they_need_and_no_more(folder: Path) -> None:
    assert perturb("export", "--tier", "sample", cwd=folder).returncode == 0
    for command in (
        ("export", "--tier", "sample"),
        ("gc", "--dry-run"),
        ("weights", "--dry-run"),
        ("seal", "--day", "2026-01-05"),
    ):
        # The hotkey, whose signatures decide what counts, is the SDK's.
        assert (UNNEEDED & imported(folder, *command)) <= {"bittensor"}, command


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a home without any of Prefect's files."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_elsewhere")
def test_without_prefects_files_there_is_no_server() -> None:
    assert not server_is_configured()
    assert not runs_as_flow(None)
    assert not runs_as_flow(False, runner="dask")


PLACES = {
    "profiles": ("home/profiles.toml", f'active = "here"\n[profiles.here]\nPREFECT_API_URL = "{URL}"\n'),
    "another profile": (
        "home/profiles.toml",
        f'active = "here"\n[profiles.here]\n[profiles.there]\nPREFECT_API_URL = "{URL}"\n',
    ),
    "prefect.toml": ("prefect.toml", f'[api]\nurl = "{URL}"\n'),
    "pyproject.toml": ("pyproject.toml", f'[tool.prefect]\napi.url = "{URL}"\n'),
    "unrelated pyproject.toml": ("pyproject.toml", "[tool.prefect]\ntasks.default_no_cache = true\n"),
    ".env": (".env", f"PREFECT_API_URL={URL}\n"),
}


@pytest.mark.parametrize("place", PLACES)
def test_prefect_and_the_command_agree_on_what_is_configured(place: str, tmp_path: Path) -> None:
    """Prefect reads its files once, at import: each in a process of its own."""
    name, text = PLACES[place]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    code = (
        "from perturb.flows.engine.prefect_settings import server_is_configured; ours = server_is_configured()\n"
        "from prefect.settings import PREFECT_API_URL; print(ours, bool(PREFECT_API_URL.value()))"
    )
    home = {"PREFECT_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path) | home,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = str(place in ("profiles", "prefect.toml", "pyproject.toml", ".env"))
    assert ran.stdout.split() == [expected, expected], ran.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_elsewhere")
def test_doctor_names_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from perturb.cli.orchestration import check_prefect

    assert check_prefect().ready
    monkeypatch.setenv("PREFECT_API_URL", URL)
    code = (
        "import perturb.tasks.monitor.doctor as parts\nparts.check_all = lambda settings: ()\n"
        "import sys\nsys.argv = ['perturb', 'doctor']\nfrom perturb.cli import main\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, "NOT READY  prefect" in ran.stdout, URL in ran.stdout) == (1, True, True), ran


@pytest.mark.slow
def test_a_configured_server_that_does_not_answer_is_named(folder: Path) -> None:
    ran = perturb("gc", "--dry-run", cwd=folder, PREFECT_API_URL=URL)
    assert (ran.returncode, URL in ran.stderr) == (2, True), ran.stderr
    assert perturb("gc", "--dry-run", "--no-flow", cwd=folder, PREFECT_API_URL=URL).returncode == 0
