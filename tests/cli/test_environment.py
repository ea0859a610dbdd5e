"""The command on machines as they are: no UTF-8 locale, few open files, no home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import Settings
from tests.support.commands import ROOT

_C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
_ANSWER = """
import resource, sys
import perturb.cli
perturb.cli.app = lambda: print(
    sys.getfilesystemencoding(), len(sys.argv[1]), resource.getrlimit(resource.RLIMIT_NOFILE)[0], "gr\\xf6\\xdfe"
)
perturb.cli.main()
"""


def test_names_are_utf8_and_every_character_can_be_printed_in_the_c_locale() -> None:
    command = f'ulimit -S -n 128; exec "{sys.executable}" -c "$PROGRAM" größe'
    environment = _C_LOCALE | {"PYTHONPATH": str(ROOT), "PROGRAM": _ANSWER}
    ran = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    encoding, length, files, text = ran.stdout.split()
    assert (encoding, length, text) == ("utf-8", "5", r"gr\xf6\xdfe")
    assert int(files) > 128


def test_a_user_without_a_home_is_told_which_setting_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("PERTURB_CACHE_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_242_424)
    with pytest.raises(SettingsError, match=r"no home folder; set HOME, or set PERTURB_CACHE_DIR"):
        _ = Settings().cache


def test_what_the_machine_refuses_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import perturb.cli

    def refused() -> None:
        raise OSError(24, "Too many open files", str(tmp_path))

    monkeypatch.setattr(perturb.cli, "app", refused)
    with pytest.raises(SystemExit) as ended:
        perturb.cli.main()
    assert ended.value.code == 2
