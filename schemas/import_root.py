"""Where a child process finds the package `perturb`."""

import perturb


def import_root() -> str:
    """Return the folder that holds `perturb`, in a checkout and in a wheel; a child's `PYTHONPATH` needs it."""
    (folder, *_) = perturb.__path__
    return folder.rpartition("/")[0]
