"""The status as gauges in a text file, for the textfile collector of Prometheus' node exporter.

Only gauges: the Prometheus text format and OpenMetrics write these in the same way.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from perturb.schemas.status import Status
from perturb.sinks.report.replace_file import replace_file

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def write_metrics(path: Path, status: Status) -> None:
    """Replace `path` by the gauges of `status`, in one step. The collector reads names that end in `.prom`.

    Every user may read the file: the collector runs as another one. Raises StoreError where it cannot be written.
    """
    from prometheus_client import generate_latest

    replace_file(path, generate_latest(gauges(status)), mode=0o644)


def gauges(status: Status) -> "CollectorRegistry":
    """Return the gauges; every name begins with `perturb_`. A value that is unknown has no sample."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"perturb_{name}", text, registry=registry).set(value)

    gauge("well", "1 where nothing needs attention, else 0.", status.well)
    gauge("status_timestamp_seconds", "Time of this status.", status.at.timestamp())
    gauge("today_rounds", "Rounds made since midnight UTC.", status.rounds)
    gauge("today_responses", "Answers to them, refused ones included.", status.responses)
    gauge("today_accepted", "Accepted answers among them.", status.accepted)
    gauge("today_miners", "Miners asked since midnight UTC.", status.miners)
    gauge("today_judged_pairs", "Label pairs that needed a judgement since midnight UTC.", status.judged)
    gauge("judge_hit_ratio", "Share of these pairs that an earlier round had needed.", status.judge_hit_rate)
    if status.last_commit is not None:
        gauge("last_commit_timestamp_seconds", "Time of the latest commit.", status.last_commit.timestamp())
    gauge("live_rounds", "Committed rounds that are not part of a sealed day.", status.live_rounds)
    gauge("unsealed_days", "Days that are over and not sealed.", len(status.unsealed_days))
    gauge("sealed_days", "Sealed days.", status.sealed_days)
    gauge("sealed_records", "Records of sealed days.", status.sealed_records)
    gauge("sealed_bytes", "Bytes of sealed days.", status.sealed_bytes)
    refused = Gauge("perturb_today_refused", "Refused answers since midnight UTC.", ["reason"], registry=registry)
    for reason, count in status.refused.items():
        refused.labels(reason).set(count)
    behind = Gauge("perturb_export_days_behind", "Sealed days due and not exported.", ["tier"], registry=registry)
    oldest = Gauge("perturb_export_lag_seconds", "Seconds since the oldest was due.", ["tier"], registry=registry)
    for lag in status.exports:
        behind.labels(lag.tier).set(len(lag.behind))
        oldest.labels(lag.tier).set(lag.oldest_due_s)
    return registry
