"""Certification of a subject under contract: again after a while, and when its weights change."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from perturb.certificates.aging import open_certificate
from perturb.certificates.entries import open_log
from perturb.certificates.places import open_subject
from perturb.certificates.planning import PlanRequest, plan_certificate
from perturb.certificates.run import RunSummary, run_certificate
from perturb.schemas.settings import Settings
from perturb.sinks.log.log import Log
from perturb.subnet.keys import load_keypair


@dataclass(frozen=True)
class Certified:
    """What a scheduled certification did. `summary` is None where the last certificate is recent enough."""

    subject_sha256: str
    reason: str
    summary: RunSummary | None

    def rows(self) -> list[dict[str, Any]]:
        """Return figures for an artifact: a row for clean accuracy, each level and each claim."""
        if self.summary is None or self.summary.certificate is None:
            return [{"what": "certificate", "value": self.reason}]
        statement, _, _ = open_certificate(self.summary.certificate)
        block = statement["predicate"]["robustness"]
        rows = [{"what": "correct without change", "value": block["cleanAccuracy"]["share"]}]
        rows += [
            {"what": f"left at {level['epsilon']}", "value": level["robust"]["share"]} for level in block["levels"]
        ]
        rows += [
            {"what": f"{claim['metric']}{claim['comparator']}{claim['threshold']}", "value": claim["verdict"]}
            for claim in statement["predicate"]["claims"]
        ]
        flags = ", ".join(flag["name"] for flag in block["flags"])
        return [*rows, {"what": "flags", "value": flags or "none"}]


def certify_when_due(
    settings: Settings,
    request: PlanRequest,
    *,
    folder: Path,
    every_days: int,
    workers: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Certified:
    """Plan and run a certificate unless the log has one of these weights, by the own hotkey, that is recent enough."""
    sha256 = open_subject(request.subject, settings, classes=request.classes).description.sha256
    signer = load_keypair(settings.subnet).ss58_address
    since = datetime.now(UTC) - timedelta(days=every_days)
    last = last_certified(open_log(settings), sha256, signer=signer, since=since)
    if last is not None:
        return Certified(sha256, f"the last one of these weights is of {last:%Y-%m-%d}", None)
    reason = f"these weights have no certificate since {since:%Y-%m-%d}"
    planned = plan_certificate(settings, request, folder=folder, log=True, tell=tell)
    return Certified(sha256, reason, run_certificate(settings, planned.folder, workers=workers, log=True, tell=tell))


def last_certified(log: Log, sha256: str, *, signer: str, since: datetime) -> datetime | None:
    """Return when `signer` entered the newest certificate of these weights, or None where that was not after `since`.

    It reads the certificates since then, not the whole log.
    """
    certificates = takewhile(lambda record: record.entry.at > since, log.back(log.newest(), "certificate"))
    mine = (one.entry for one in certificates if one.entry.signer == signer)
    return next((entry.at for entry in mine if entry.detail.get("subject") == sha256), None)
