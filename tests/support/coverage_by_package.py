"""Print the share of lines that the last run with `--cov` executed, by package and in all.

    python -m tests.support.coverage_by_package

It reads `.coverage`. Code that only runs in a process of its own, as the command line does in tests, is not counted.
"""

import json
import tempfile
from pathlib import Path

import coverage


def main() -> None:
    """Print one line for each top-level folder, and the total."""
    found = coverage.Coverage()
    found.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "coverage.json")
        found.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    lines: dict[str, list[int]] = {}
    for path, entry in files.items():
        for name in (path.partition("/")[0], "total"):
            covered, statements = lines.setdefault(name, [0, 0])
            summary = entry["summary"]
            lines[name] = [covered + summary["covered_lines"], statements + summary["num_statements"]]
    for name in sorted(lines, key=lambda name: (name == "total", name)):
        covered, statements = lines[name]
        print(f"{name:<12}{covered:>7} of {statements:>6} lines {covered / statements:>7.1%}")


if __name__ == "__main__":
    main()
