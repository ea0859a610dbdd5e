"""Where a child process finds this project."""

import perturb


def import_root() -> str:
    """The folder that holds the package `perturb`: what a child's `PYTHONPATH` needs, in a checkout and in a wheel."""
    (folder, *_) = perturb.__path__
    return folder.rpartition("/")[0]
