"""Pytest plugin: which tests share a process when pytest-xdist runs them in several (`--dist loadgroup`).

The tests of a file stay together, as they share fixtures; so do tests of several files that need the same expensive
server, marked `xdist_group`. Files marked slow begin first, so that none of them begins when all others are done.
"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test a group, and order groups with slow tests before the others."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
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
