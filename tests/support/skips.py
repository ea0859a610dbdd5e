"""Pytest plugin: `--strict-skips` ends a run with an error when a test was skipped for a reason that is not allowed.

Continuous integration runs with it: a service that is missing there would otherwise silence its tests unnoticed.
"""

import pytest

# The beginning of a skip's reason, and why such a skip is accepted.
ALLOWED = {
    "/dev/full is missing": "only Linux has this device; the test of a full disk needs it",
}


class SkipGuard:
    """Collects the skips of a run and turns those that are not allowed into a failure of the run."""

    def __init__(self) -> None:
        self.unexpected: dict[str, str] = {}

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        # An expected failure is also reported as skipped.
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(tuple(ALLOWED)):
            self.unexpected[report.nodeid] = reason

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unexpected:
            terminalreporter.section("skips that are not allowed", red=True)
        for test, reason in self.unexpected.items():
            terminalreporter.write_line(f"{test}: {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--strict-skips`."""
    parser.addoption(
        "--strict-skips",
        action="store_true",
        help="fail the run when a test is skipped for a reason that tests/support/skips.py does not allow",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch the skips; with pytest-xdist, in the process that gathers the workers' reports."""
    if config.getoption("--strict-skips") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkipGuard())
