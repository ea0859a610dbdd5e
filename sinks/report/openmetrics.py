"""The status as gauges in the OpenMetrics text format, for a node exporter's textfile collector.

Only gauges: the collector reads the older Prometheus format too, and in both of them a gauge is written the same way.
"""

import os
from pathlib import Path

from perturb.schemas.errors import StoreError
from perturb.schemas.status import Status


def render_metrics(status: Status) -> bytes:
    """OpenMetrics text that ends in `# EOF`; every name begins with `perturb_`."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, text: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"perturb_{name}", text, registry=registry).set(value)

    gauge("well", "1 where nothing needs attention, else 0.", status.well)
    gauge("status_timestamp_seconds", "When the corpus was looked at.", status.at.timestamp())
    gauge("today_rounds", "Rounds made since midnight UTC.", status.rounds)
    gauge("today_responses", "Answers to them, refused ones included.", status.responses)
    gauge("today_accepted", "Accepted answers among them.", status.accepted)
    gauge("today_miners", "Miners asked since midnight UTC.", status.miners)
    gauge("today_judged_pairs", "Label pairs that needed a judgement since midnight UTC.", status.judged)
    gauge("judge_hit_ratio", "Share of them that was known already.", status.judge_hit_rate)
    if status.last_commit is not None:
        gauge("last_commit_timestamp_seconds", "When the youngest round was committed.", status.last_commit.timestamp())
    gauge("live_rounds", "Committed rounds that no sealed day has taken in.", status.live_rounds)
    gauge("unsealed_days", "Days that are over and not sealed.", len(status.unsealed_days))
    gauge("sealed_days", "Sealed days.", status.sealed_days)
    gauge("sealed_records", "Records of sealed days.", status.sealed_records)
    gauge("sealed_bytes", "Bytes of sealed days.", status.sealed_bytes)
    refused = Gauge("perturb_today_refused", "Refused answers since midnight UTC.", ["reason"], registry=registry)
    for reason, count in status.refused.items():
        refused.labels(reason).set(count)
    behind = Gauge("perturb_export_days_behind", "Sealed days due and not exported.", ["tier"], registry=registry)
    oldest = Gauge("perturb_export_lag_seconds", "Since when the oldest is due.", ["tier"], registry=registry)
    for lag in status.exports:
        behind.labels(lag.tier).set(len(lag.behind))
        oldest.labels(lag.tier).set(lag.oldest_due_s)
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]


def write_file(path: Path, data: bytes) -> None:
    """Replace a file at once, so that whoever collects it never reads half of it. Raises StoreError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); name a file in a writable folder") from error
    finally:
        draft.unlink(missing_ok=True)
