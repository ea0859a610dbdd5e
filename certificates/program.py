"""The program that measures, as a plan fixes it: versions of packages, and digests of the code that decides."""

import hashlib
from functools import cache
from importlib.resources import files

# Packages whose version changes what is measured.
PACKAGES = ("perturb", "pyautoattack", "torch", "timm", "numpy")
# Modules that decide which images count as broken.
_CODE = {
    "perturb.certificates": (
        "autoattack.py",
        "measure.py",
        "draw.py",
        "canary.py",
        "flags.py",
        "subject.py",
        "pool.py",
    ),
    "perturb.attacks": ("base.py", "grid.py"),
}


def code_digest() -> str:
    """Return the digest of this program's code that decides what counts as broken."""
    parts = [package_digest(package, names) for package, names in _CODE.items()]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


@cache
def package_digest(package: str, names: tuple[str, ...] | None = None) -> str:
    """Return the sha256 over names and contents of a package's Python files; of all without `names`."""
    digest = hashlib.sha256()
    for file in sorted(files(package).iterdir(), key=lambda entry: entry.name):
        if file.is_file() and file.name.endswith(".py") and (names is None or file.name in names):
            digest.update(f"{file.name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
