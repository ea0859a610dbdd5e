"""Every file that an install may take is known by its sha256, for either build of torch."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def pins(name: str) -> dict[str, list[str]]:
    """The hashes of each pin of a file, by `name==version`."""
    lines = re.sub(r"\\\n\s*", "", (ROOT / name).read_text()).splitlines()
    parts = [line.split() for line in lines if not line.startswith("#")]
    return {words[0]: [word for word in words if word.startswith("--")] for words in parts}


def test_the_whole_tree_is_pinned_with_hashes() -> None:
    everywhere, cuda = pins("requirements.txt"), pins("requirements-cuda.txt")
    assert not everywhere.keys() & cuda.keys()
    assert pins("constraints.txt").keys() == everywhere.keys() | cuda.keys()
    for pin, hashes in {**everywhere, **cuda}.items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", pin)
        assert hashes, pin
        assert all(map(HASH.fullmatch, hashes)), pin
    (cpu,) = pins("requirements-cpu.txt")
    assert cpu.removesuffix("+cpu") in everywhere
    assert any(pin.startswith("setuptools==") for pin in everywhere), "it builds the project itself"


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    """pip is asked as `make install` asks it, for a wheel that is not the one that was pinned."""
    (recipe,) = re.findall(
        r"\$\(PIP\) (--no-deps --require-hashes) -r requirements\.txt", (ROOT / "Makefile").read_text()
    )
    (pin,) = [pin for pin in pins("requirements.txt") if pin.startswith("colorama==")]
    (tmp_path / f"{pin.replace('==', '-')}-py2.py3-none-any.whl").write_bytes(b"PK, but harmful")
    (tmp_path / "requirements.txt").write_text(f"{pin} {' '.join(pins('requirements.txt')[pin])}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-index", "--find-links", str(tmp_path), *recipe.split()]
    ended = subprocess.run(
        [*command, "-d", str(tmp_path / "taken"), "-r", str(tmp_path / "requirements.txt")],
        capture_output=True,
        text=True,
        env={"PIP_CONFIG_FILE": "/dev/null", "PATH": ""},
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "DO NOT MATCH THE HASHES" in ended.stderr
    assert not list((tmp_path / "taken").glob("*"))
