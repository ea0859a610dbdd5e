"""Compares the pinned tree with the published lists of known vulnerabilities, which pip-audit asks.

Ends with 1 where a pinned version is listed. Where no list can be reached, and for packages that a list does not know,
it says so and ends with 0: a machine without that access can still build and test.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SERVICES = ("pypi", "osv")
# The runner's time is limited; a list that does not answer must not use it up.
_SECONDS = 300


def main() -> int:
    """Ask the first list that answers; return the exit code."""
    for service in _SERVICES:
        found = _ask(service)
        known = [package for package in found if "skip_reason" not in package]
        if not known:
            sys.stdout.write(f"{service}: no list of known vulnerabilities was reachable\n")
            continue
        listed = [(package, one) for package in known for one in package["vulns"]]
        for package, one in listed:
            fixed = ", ".join(one["fix_versions"]) or "no version"
            sys.stdout.write(f"{package['name']} {package['version']}: {one['id']}, fixed in {fixed}\n")
        sys.stdout.write(f"{service}: {len(known)} of {len(found)} packages compared, {len(listed)} vulnerabilities\n")
        return int(bool(listed))
    sys.stdout.write("NOT CHECKED: run `make vulnerabilities` on a machine that reaches one of these lists\n")
    return 0


def _ask(service: str) -> list[dict]:
    """Return what pip-audit says of each pinned package; nothing where it got no answer."""
    command = [sys.executable, "-m", "pip_audit", "-s", service, "--no-deps", "--disable-pip", "-f", "json"]
    try:
        ended = subprocess.run(
            [*command, "--progress-spinner", "off", "-r", str(ROOT / "requirements.txt")],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        return json.loads(ended.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return []


if __name__ == "__main__":
    sys.exit(main())
