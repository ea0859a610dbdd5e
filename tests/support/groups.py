"""Pytest plugin: marks tests by the fixtures that they use, and tells pytest-xdist which tests share a process.

With `--dist loadfile` the tests of a file stay together, because they share fixtures. So do all tests on Ceph, whose
cluster is expensive to start. With `--no-loadscope-reorder` files with slow tests come first, so that none of them
begins when all others are done.
"""

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# Fixture -> marker of the tests that use it.
NEEDS = {"seaweed": "s3", "seaweed_store": "s3", "ceph": "s3"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its fixtures, and order the files by their number of slow tests, those with most first."""
    slow: dict[str, int] = {}
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in NEEDS:
                item.add_marker(NEEDS[fixture])
        file = item.nodeid.partition("::")[0]
        slow[file] = slow.get(file, 0) + (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -slow[item.nodeid.partition("::")[0]])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling | None":
    """Return the scheduler of `--dist loadfile`, with one more group: the tests on Ceph, of whichever file."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesAndCeph(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return "ceph" if "[ceph" in nodeid else str(super()._split_scope(nodeid))

    return FilesAndCeph(config, log)
