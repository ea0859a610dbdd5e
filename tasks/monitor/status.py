"""The state of a corpus, from the corpus alone: its newest entry and days, a few columns of recent records."""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
from perturb.schemas.settings import Settings
from perturb.schemas.status import Finding, Medians, Status, TargetCounts, TierLag
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.keys import commit_key
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.keys import exported_days
from perturb.sinks.formats.parquet import open_table
from perturb.sinks.log.log import Log
from perturb.sinks.stores.arrow import open_filesystem
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing
from perturb.sinks.targets.line_up import LineUps
from perturb.tasks.corpus.seal import closes_at
from perturb.tasks.monitor.foreign import foreign_findings, left_behind, own_days, round_refusal
from perturb.tasks.tiers.tier_file import load_tiers

if TYPE_CHECKING:
    import duckdb

# Days, today included, whose judgements count as known in the hit rate. Reading all days would take long.
JUDGED_DAYS = 7
# Days in which a tier's missing exports are looked for.
EXPORT_DAYS = 7
# Fewer answers than these may all be refused by chance.
_MIN_ANSWERS = 20
_READERS = 8
# What reading a damaged or missing file of records raises. A store that cannot be reached raises another StoreError.
_UNREADABLE = (CorpusError, ObjectCorrupt, ObjectMissing, pa.ArrowException, OSError)
_COLUMNS = (
    *("round_id", "created_at", "outcome", "miner_hotkey", "true_label", "adversarial_label", "semantic_mismatch"),
    *("judge", "linf_levels", "ssim", "response_ms", "score", "target"),
)


def read_status(corpus: Corpus, settings: Settings, *, now: datetime | None = None, trust: Trust = ANYONE) -> Status:
    """Return what was produced today, what lags behind, and what to do about it, as of `now`.

    What no validator of `trust` signed is not counted and is a finding. Of live rounds, today's and those of sealed
    partitions are looked at; the others are when they are sealed.

    Reads the newest entry of the log and the manifests of the last week, lists the live rounds, and reads thirteen
    columns of today's records and of the days sealed in the last week: its cost does not grow with the corpus' age.
    Raises CorpusError for an invalid manifest, TierError for an invalid tier file, StoreError.
    """
    now = now or datetime.now(UTC)
    today = now.astimezone(UTC).date()
    foreign_entries: Counter[str] = Counter()
    newest, totals = next(corpus.days_back(trust, left=foreign_entries), None), corpus.totals(trust)
    week = today - timedelta(days=JUDGED_DAYS)
    there = [] if newest is None else (corpus.newest_days(week + timedelta(days=1), trust) or [newest])
    live = corpus.live_rounds(trust)
    manifests, foreign_days = own_days(there, trust)
    records, foreign, unreadable = _read(corpus, today, manifests, live, trust)
    live = [ref for ref in live if ref not in foreign]
    today_counts = _today_counts(records, today, _shares(corpus, trust))
    last_round, last_commit = _last_commit(corpus, manifests, live)
    exports = _exports(corpus, delays(settings.tiers), now, trust)
    status = Status(
        store=corpus.store.url,
        at=now,
        today=today,
        **today_counts,
        last_round=last_round,
        last_commit=last_commit,
        last_commit_age_s=None if last_commit is None else (now - last_commit).total_seconds(),
        live_rounds=len(live),
        unsealed_days=tuple(sorted({ref.day for ref in live if ref.day < today})),
        foreign_rounds=dict(Counter(foreign.values())),
        foreign_days=dict(foreign_days),
        foreign_entries=dict(foreign_entries),
        sealed_days=totals.days - sum(foreign_days.values()),
        sealed_records=totals.records - sum(manifest.records for manifest in there if manifest not in manifests),
        sealed_bytes=totals.bytes - sum(manifest.size for manifest in there if manifest not in manifests),
        last_sealed=manifests[-1].day if manifests else None,
        exports=exports,
        findings=(),
    )
    findings = [_unreadable(day, why) for day, why in unreadable.items()]
    return status.model_copy(update={"findings": (*_findings(status, settings), *findings)})


def _shares(corpus: Corpus, trust: Trust) -> dict[str, float]:
    """Return the shares of the line-up in force; none where its log is a stranger's, which the findings say."""
    try:
        line_up, _ = LineUps(Log(corpus.store, trust=trust)).newest()
    except CorpusError:
        return {}
    return {} if line_up is None else {one.target: one.share for one in line_up.shares}


def delays(path: Path) -> dict[str, int]:
    """Return the delay of each tier in days.

    The full parser is slow to import, so it reads only a file that the short way here cannot read, to name the error.
    Raises TierError.
    """
    try:
        tables: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("tiers", {})
        return {name: int(table.get("delay_days", 0)) for name, table in tables.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {name: tier.delay_days for name, tier in load_tiers(path).items()}


def _read(
    corpus: Corpus, today: date, manifests: Sequence[Manifest], live: Sequence[RoundRef], trust: Trust
) -> tuple[pa.Table, dict[RoundRef, str], dict[date, str]]:
    """Return the records of the last week's sealed days and of today's rounds, and why which live rounds do not count
    and which days cannot be read.

    Looked at are today's rounds and those of sealed partitions.
    """
    week = today - timedelta(days=JUDGED_DAYS)
    places = [(one.day, entry.key) for one in manifests if one.day > week for entry in one.file("metadata")]
    rounds = [ref for ref in live if ref.day >= today]
    rounds += [ref for ref in left_behind(live, manifests) if ref.day < today]
    files = open_filesystem(corpus.store)
    schema = pa.schema([record_schema().field(name) for name in _COLUMNS])

    def read(place: tuple[date, str]) -> pa.Table | str:
        try:
            with files.open_input_file(place[1]) as file:
                return open_table(file, place[1]).read(list(_COLUMNS), use_threads=False)
        except _UNREADABLE as error:
            return str(error)

    def read_own(ref: RoundRef) -> pa.Table | str | None:
        try:
            with files.open_input_file(ref.commit_key) as file:
                table = open_table(file, ref.commit_key)
                if refusal := round_refusal(table, ref.commit_key, trust):
                    return refusal
                return table.read(list(_COLUMNS), use_threads=False) if ref.day >= today else None
        except _UNREADABLE:
            return "it cannot be read, so that no signature is known"

    # Reading file by file takes half as long as a dataset's scan: the rounds of a day are many files of a few rows.
    with ThreadPoolExecutor(_READERS) as pool:
        sealed = list(pool.map(read, places))
        found = list(pool.map(read_own, rounds))
    tables = [table for table in (*sealed, *found) if isinstance(table, pa.Table)]
    foreign = {ref: refusal for ref, refusal in zip(rounds, found, strict=True) if isinstance(refusal, str)}
    unreadable = {day: why for (day, _), why in zip(places, sealed, strict=True) if isinstance(why, str)}
    # `schema.empty_table()` would make Arrow import pandas, which takes 0.2 s.
    together = pa.concat_tables([pa.Table.from_batches([], schema), *tables], promote_options="default")
    return together, foreign, unreadable


def _unreadable(day: date, why: str) -> Finding:
    return Finding(
        part="sealed days",
        what=f"the metadata of {day} cannot be read: {why}",
        advice=f"run `perturb audit --day {day}` and restore it from a copy",
    )


_TODAY = """
SELECT count(DISTINCT round_id), count(*), count(*) FILTER (outcome = 'accepted'), count(DISTINCT miner_hotkey),
    median(linf_levels) FILTER (outcome = 'accepted'), median(ssim) FILTER (outcome = 'accepted'),
    median(response_ms) FILTER (outcome = 'accepted'), median(score) FILTER (outcome = 'accepted')
FROM records WHERE fresh
"""
_REFUSED = "SELECT outcome, count(*) n FROM records WHERE fresh AND outcome <> 'accepted' GROUP BY 1 ORDER BY n DESC, 1"
# 422 is how a miner says that it does not have the network of a task.
_TARGETS = """
SELECT target, count(*), count(*) FILTER (outcome = 'accepted'), count(*) FILTER (outcome = 'http_422')
FROM records WHERE fresh GROUP BY 1 ORDER BY 1
"""
# A round asks for each pair of labels once, in either order. A pair is known if an earlier round asked for it.
_JUDGED = """
WITH asked AS (
    SELECT DISTINCT round_id, fresh, least(true_label, adversarial_label) a, greatest(true_label, adversarial_label) b
    FROM records WHERE judge <> 'none' AND semantic_mismatch IS NOT NULL
), placed AS (SELECT fresh, row_number() OVER (PARTITION BY a, b ORDER BY round_id) AS place FROM asked)
SELECT count(*), count(*) FILTER (place > 1) FROM placed WHERE fresh
"""


class _TodayCounts(TypedDict):
    """The fields of Status that count today's records."""

    rounds: int
    responses: int
    accepted: int
    refused: dict[str, int]
    miners: int
    targets: tuple[TargetCounts, ...]
    medians: Medians
    judged: int
    judge_hit_rate: float | None


def _today_counts(records: pa.Table, today: date, shares: Mapping[str, float]) -> _TodayCounts:
    import duckdb

    midnight = int(datetime.combine(today, clock_time(), UTC).timestamp())
    with duckdb.connect() as database:
        fresh = f"*, epoch(created_at) >= {midnight} AS fresh"
        database.from_arrow(records).project(fresh).create_view("records")
        rounds, responses, accepted, miners, *medians = _row(database, _TODAY)
        targets = database.execute(_TARGETS).fetchall()
        judged, known = _row(database, _JUDGED)
        refused = dict(database.execute(_REFUSED).fetchall())
    return {
        "rounds": rounds,
        "responses": responses,
        "accepted": accepted,
        "refused": refused,
        "miners": miners,
        "targets": tuple(
            TargetCounts(
                target=target, share=shares.get(target), responses=asked, accepted=accepted_, not_served=unserved
            )
            for target, asked, accepted_, unserved in targets
        ),
        "medians": Medians(**dict(zip(Medians.model_fields, medians, strict=True))),
        "judged": judged,
        "judge_hit_rate": known / judged if judged else None,
    }


def _row(database: "duckdb.DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    row = database.execute(query).fetchone()
    assert row is not None, "an aggregate without GROUP BY has one row"
    return row


def _last_commit(
    corpus: Corpus, manifests: Sequence[Manifest], live: Sequence[RoundRef]
) -> tuple[str | None, datetime | None]:
    """Return the latest round and when its commit object was written; if that is removed, when its day was sealed."""
    candidates = [(ref.round_id, ref.day) for ref in live]
    candidates += [
        (last.round_id, last.date) for manifest in manifests[-2:] if (last := manifest.last_round) is not None
    ]
    if not candidates:
        return None, None
    round_id, day = max(candidates)
    entry = corpus.store.head(commit_key(day, round_id))
    return round_id, entry.modified if entry is not None else manifests[-1].sealed_at


def _exports(corpus: Corpus, tiers: Mapping[str, int], now: datetime, trust: Trust) -> tuple[TierLag, ...]:
    """Return how far each tier is behind, by the last `EXPORT_DAYS` days that its delay lets through."""
    newest = corpus.newest(trust)
    lags = []
    for tier, delay in tiers.items():
        if newest is None:
            lags.append(TierLag(tier=tier, exported_until=None, behind=(), oldest_due_s=0.0))
            continue
        last = newest.day if not delay else min(newest.day, now.astimezone(UTC).date() - timedelta(days=1 + delay))
        looked_at = [last - timedelta(days=back) for back in range(EXPORT_DAYS - 1, -1, -1)]
        done = set(exported_days(corpus.store, tier, since=looked_at[0])) or set(exported_days(corpus.store, tier))
        missing = [own for day in looked_at if day not in done and (own := _own_manifest(corpus, day, trust))]
        due = {manifest.day: _due_at(manifest, delay) for manifest in missing}
        behind = tuple(day for day, moment in due.items() if moment <= now)
        oldest = max((now - due[day]).total_seconds() for day in behind) if behind else 0.0
        lags.append(TierLag(tier=tier, exported_until=max(done, default=None), behind=behind, oldest_due_s=oldest))
    return tuple(lags)


def _own_manifest(corpus: Corpus, day: date, trust: Trust) -> Manifest | None:
    """Return the manifest of a day if a validator of `trust` signed it, otherwise None."""
    try:
        manifest = corpus.manifest(day)
    except (CorpusError, ObjectCorrupt):
        return None
    return manifest if manifest is not None and manifest.refusal(trust) is None else None


def _due_at(manifest: Manifest, delay_days: int) -> datetime:
    """Return when a day may be exported: `delay_days` after its end, but not before it was sealed."""
    opened = datetime.combine(manifest.day + timedelta(days=1 + delay_days), clock_time(), UTC)
    return max(manifest.sealed_at, opened) if delay_days else manifest.sealed_at


def _findings(status: Status, settings: Settings) -> list[Finding]:
    limits, found = settings.status, []
    if status.last_round is None:
        found.append(
            Finding(
                part="production",
                what=f"nothing was committed to {status.store} yet",
                advice="the first run of a schedule takes two to three minutes; otherwise run `perturb produce`, "
                "or name a store that holds rounds",
            )
        )
    found += foreign_findings(status.foreign_rounds, status.foreign_days, status.foreign_entries)
    age = status.last_commit_age_s
    if limits.commit_minutes and age is not None and age > limits.commit_minutes * 60:
        found.append(
            Finding(
                part="production",
                what=f"nothing was committed for {age / 60:.0f} minutes",
                advice="look at the produce runs and the worker (`prefect flow-run ls`), then run `perturb doctor`",
            )
        )
    if status.responses >= _MIN_ANSWERS and not status.accepted:
        reason, count = next(iter(status.refused.items()))
        found.append(
            Finding(
                part="answers",
                what=f"all of today's {status.responses} answers were refused, {count} of them as {reason}",
                advice="look at the records' `detail` column; run `perturb doctor` for classifier, judge and neurons",
            )
        )
    found += [
        Finding(
            part="targets",
            what=f"{one.not_served} of today's {one.responses} answers say that the miner does not have target "
            f"{one.target}, and {one.accepted} were accepted",
            advice="acceptance falls until they run `perturb miner --targets STORE`, an address at which they can read "
            "`targets/`; `perturb targets rollback` undoes a promotion",
        )
        for one in status.targets
        if one.responses >= _MIN_ANSWERS and 2 * one.not_served >= one.responses
    ]
    for day in status.unsealed_days:
        if status.at > closes_at(day, settings.seal) + timedelta(hours=limits.seal_hours):
            found.append(
                Finding(
                    part="seal",
                    what=f"{day} is not sealed",
                    advice=f"run `perturb seal --day {day}` and read what it prints",
                )
            )
            break  # Sealing a later day includes the rounds of earlier days, so one sentence is enough.
    found += [
        Finding(
            part="export",
            what=f"tier {lag.tier} lacks the sealed days since {lag.behind[0]} ({len(lag.behind)} in all)",
            advice=f"run `perturb export --tier {lag.tier}`, or remove the tier from {settings.tiers}",
        )
        for lag in status.exports
        if lag.oldest_due_s > limits.export_hours * 3600
    ]
    return found
