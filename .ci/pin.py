"""Writes constraints.txt, requirements.txt and requirements-cuda.txt: the whole tree, without and with sha256.

`make constraints` runs it in an environment that has uv. A version that is pinned stays where pyproject.toml allows
it; options such as `--upgrade-package NAME` or `--upgrade` are given on to `uv pip compile`.

requirements-cpu.txt is written by hand: CPU builds of torch are not on PyPI.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLAIN, HASHED, CUDA = (ROOT / name for name in ("constraints.txt", "requirements.txt", "requirements-cuda.txt"))
# What only the CUDA build of torch requires, and what is not installed beside a CPU build.
_OF_CUDA = re.compile(r"(nvidia|cuda)-|triton==")
# `[tool.uv]` in pyproject.toml names these environments; uv repeats them in the markers.
_VERSIONS = "python_full_version >= '3.11.5' and python_full_version < '3.14'"
_LINUX = "sys_platform == 'linux'"
_HEADS = {
    PLAIN: "The whole tree, pinned, for `pip install -c`. A CPU build of torch satisfies its version as well.",
    HASHED: "The whole tree with the sha256 of every file of it; `make install` accepts no others.",
    CUDA: "What the CUDA build of torch needs besides requirements.txt.",
}


def main(options: list[str]) -> None:
    """Compile pyproject.toml with all its extras for development, and write the three files."""
    pinned = {**_read(HASHED), **_read(CUDA)}
    compiled = ROOT / "build" / "pins.txt"
    compiled.parent.mkdir(exist_ok=True)
    # uv prefers the versions that its output has already.
    compiled.write_text("".join(f"{pin}\n" for pin in pinned or _read(PLAIN)))
    subprocess.run(
        [
            *("uv", "pip", "compile", "pyproject.toml", "--extra", "dev", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-strip-markers", "--no-annotate", "--no-header", "--quiet"),
            *("--output-file", str(compiled), *options),
        ],
        cwd=ROOT,
        check=True,
    )
    pins = _read(compiled)
    cuda = {pin for pin in pins if _OF_CUDA.match(pin)}
    for path, chosen in ((HASHED, pins.keys() - cuda), (CUDA, cuda)):
        lines = [" \\\n    --hash=".join((pin, *pins[pin])) for pin in sorted(chosen, key=_name)]
        _write(path, lines)
    _write(PLAIN, sorted(pins, key=_name))


def _read(path: Path) -> dict[str, list[str]]:
    """Return the hashes of each pin, a pin with its marker."""
    if not path.exists():
        return {}
    lines = re.sub(r"\\\n\s*", "", path.read_text()).splitlines()
    parts = [line.split(" --hash=") for line in lines if line and not line.startswith("#")]
    return {_short(pin): [one.strip() for one in hashes] for pin, *hashes in parts}


def _short(line: str) -> str:
    """Return a pin without the markers that all environments meet."""
    pin, _, marker = line.strip().partition(" ; ")
    marker = marker.replace(f"{_VERSIONS} and ", "").replace(f" and {_LINUX}", "")
    return f"{pin} ; {marker}" if marker not in ("", _LINUX) else pin


def _name(pin: str) -> str:
    return pin.partition("==")[0]


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join([f"# {_HEADS[path]}", "# Written by `make constraints`.", *lines, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
