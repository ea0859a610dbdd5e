"""Finds what no trusted validator signed: sealed days, and live rounds that no seal takes in."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow.parquet as pq

from perturb.schemas.status import Finding
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import RoundRef
from perturb.sinks.corpus.manifest import Manifest, parse_round
from perturb.sinks.formats.parquet import read_statement

_ADVICE = (
    "they are never sealed, exported or paid for; list the signer in subnet.trusted_validators if it is one of yours, "
    "otherwise run `perturb audit` and find out who can write to the store"
)


def own_days(manifests: Sequence[Manifest], trust: Trust) -> tuple[list[Manifest], Counter[str]]:
    """Return the sealed days that count under `trust`, and why how many others do not."""
    refusals = [manifest.refusal(trust) for manifest in manifests]
    own = [manifest for manifest, refusal in zip(manifests, refusals, strict=True) if refusal is None]
    return own, Counter(refusal for refusal in refusals if refusal is not None)


def round_refusal(table: pq.ParquetFile, key: str, trust: Trust) -> str | None:
    """Return why the round whose commit object is open as `table` does not count under `trust`, or None.

    Its rows are not compared with its signed statement; sealing and auditing do that. Raises CorpusError for a
    statement that cannot be parsed.
    """
    return parse_round(read_statement(table, key), key).refusal(trust)


def left_behind(live: Sequence[RoundRef], manifests: Sequence[Manifest]) -> list[RoundRef]:
    """Return the live rounds of partitions that are sealed: late ones, and those that sealing did not take in."""
    last = max((manifest.day for manifest in manifests), default=None)
    return [ref for ref in live if last is not None and ref.day <= last]


def foreign_findings(rounds: Mapping[str, int], days: Mapping[str, int], entries: Mapping[str, int]) -> list[Finding]:
    """Return one finding for each reason, from counts of live rounds, sealed days and entries of the log by it."""
    return [
        Finding(part="signatures", what=f"{count} {what}: {why}", advice=_ADVICE)
        for what, foreign in (("live rounds", rounds), ("sealed days", days), ("entries of the log", entries))
        for why, count in foreign.items()
    ]
