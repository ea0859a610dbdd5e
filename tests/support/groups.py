"""Pytest plugin: marks tests by what they need, and tells pytest-xdist (`--dist loadgroup`) which share a process.

Tests of a file stay together, because they share fixtures. Tests of any file stay together that are marked with the
same `xdist_group`, because they share an expensive server. Groups with slow tests come first, so that none of them
begins when all others are done.
"""

import pytest

# Fixture -> marker of the tests that use it.
NEEDS = {"seaweed": "s3", "seaweed_store": "s3", "ceph": "s3"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its fixtures, give it a group, and order groups with slow tests before the others."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in NEEDS:
                item.add_marker(NEEDS[fixture])
        marker = item.get_closest_marker("xdist_group")
        if marker is None:
            name = item.nodeid.partition("::")[0]
            item.add_marker(pytest.mark.xdist_group(name))
        else:
            name = str(marker.args[0])
        groups.setdefault(name, []).append(item)

    def slow_tests(group: list[pytest.Item]) -> int:
        return sum(item.get_closest_marker("slow") is not None for item in group)

    items[:] = [item for group in sorted(groups.values(), key=slow_tests, reverse=True) for item in group]
