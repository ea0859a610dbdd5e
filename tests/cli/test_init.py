"""`perturb init`: an operator's folder whose files say what is in effect, and which is never overwritten."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from perturb.schemas.settings import Settings, changed_settings, load_settings
from perturb.schemas.settings_file import commented_settings
from tests.support.commands import ROOT, perturb


def test_a_folder_is_written_once(tmp_path: Path) -> None:
    first = perturb("init", "op", cwd=tmp_path)
    assert (first.returncode, first.stdout.count(" written\n")) == (0, 3)
    assert (tmp_path / "op/tiers.toml").read_bytes() == (ROOT / "tiers.toml").read_bytes()
    (tmp_path / "op/perturb.toml").write_text('source = "folder:photos"\n')
    (tmp_path / "op/prefect.yaml").unlink()
    again = perturb("init", "op", cwd=tmp_path)
    assert [line for line in again.stdout.splitlines() if "kept" in line] == [
        "op/perturb.toml exists and is kept",
        "op/tiers.toml exists and is kept",
    ]
    assert "op/prefect.yaml written" in again.stdout
    assert (tmp_path / "op/perturb.toml").read_text() == 'source = "folder:photos"\n'


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = perturb("init", "file/op", cwd=tmp_path)
    assert ran.returncode == 2
    assert re.search(r"perturb: file\S* cannot be written \(Not a directory\)", ran.stderr)


def test_the_written_settings_change_nothing_and_uncommented_they_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = commented_settings()
    (tmp_path / "perturb.toml").write_text(text)
    assert changed_settings(load_settings()) == {}
    uncommented = re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE)
    (tmp_path / "perturb.toml").write_text(uncommented)
    assert changed_settings(load_settings()) == {}
    # Nothing was left out: the file has each setting that has a default, and names those that have none.
    document = tomllib.loads(uncommented)
    for section, name, default in every_setting(Settings):
        assert default is None or name in (document[section] if section else document), name
        assert name in text
    changed = uncommented.replace('policy = "grid-1"', 'policy = "public-1"').replace("netuid = 26", "netuid = 27")
    (tmp_path / "perturb.toml").write_text(changed)
    assert changed_settings(load_settings()) == {"policy": "public-1", "subnet.netuid": 27}


def every_setting(model: type[BaseModel], section: str = "") -> Iterator[tuple[str, str, object]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_setting(field.annotation, name)
        else:
            assert field.description, f"{section}.{name} has no description"
            yield section, name, field.default
