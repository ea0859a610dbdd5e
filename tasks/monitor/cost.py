"""Estimate of what a corpus costs to store and to extend, from its sizes and the prices in the settings."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from math import ceil

from pydantic import BaseModel, ConfigDict, Field

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.contents import read_contents
from perturb.sinks.dataset.keys import EXPORTS
from perturb.sinks.stores.base import STREAM_BYTES

# Sealed days that averages are taken over, so that old traffic does not hide the present one.
_WINDOW = 7
# Requests of committing one round: three conditional PUTs, the listing of sealed days, one GET for the day's manifest.
ROUND_WRITES = 3
ROUND_LISTS = 1
ROUND_READS = 1
# Requests of sealing for each round: its metadata and both tars.
SEAL_READS = 3
_GB = 1e9
_MONTH = 30
_LISTED = (keys.ROUNDS, keys.PENDING, keys.ANSWERS)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cost(_Part):
    """Estimates and the averages that they are made from. Sizes are in bytes, money in the settings' currency."""

    store: str
    days_observed: float = Field(description="days of production that averages are taken over")
    rounds_per_day: float
    records_per_round: float
    round_bytes: float = Field(description="mean size of the three objects of a round")
    sealed_bytes_per_day: float
    export_bytes_per_day: dict[str, float] = Field(description="tier -> bytes that a sealed day adds")
    keep_rounds_days: int
    superseded_bytes: float = Field(
        description="rounds kept beside their sealed days, once as many are removed as are added"
    )
    stored_bytes: int = Field(
        description="size of the store's objects now, without manifests, cards and other small ones"
    )
    growth_bytes_per_day: float
    writes_per_day: float = Field(description="PUT and LIST requests")
    reads_per_day: float = Field(description="GET and HEAD requests of the pipeline, without those of subscribers")
    requests_cost_per_month: float
    storage_cost_now_per_month: float
    storage_cost_in_a_year_per_month: float


def estimate_cost(corpus: Corpus, settings: Settings, *, now: datetime | None = None) -> Cost:
    """Extrapolate averages over the last seven sealed days and the live rounds.

    Lists rounds and answers, whose number does not grow with the age of the corpus, and takes what is sealed from the
    newest entry of the log and what is exported from each tier's contents. Raises CorpusError for a store without a
    round.
    """
    now = now or datetime.now(UTC)
    manifests = list(islice(corpus.days_back(), _WINDOW))[::-1]
    live = corpus.live_rounds()
    sizes = {entry.key: entry.size for folder in _LISTED for entry in corpus.store.entries(folder)}
    round_sizes = _round_sizes(sizes)
    exported = {tier: read_contents(corpus.store, tier) for tier in corpus.store.folders(EXPORTS)}
    if not round_sizes:
        raise CorpusError(f"{corpus.store.url} holds no rounds to estimate from; run `perturb produce` first")
    days, rounds = _pace(manifests, live, now)
    per_day = rounds / days
    round_bytes = sum(round_sizes.values()) / len(round_sizes)
    sealed = sum(manifest.size for manifest in manifests)
    claims = sum(manifest.rounds for manifest in manifests)
    # Per round, since a day may have been sealed early or begun late. Before the first seal, rounds are assumed to keep
    # their size.
    sealed_per_day = per_day * (sealed / claims if claims else round_bytes)
    exports = {
        tier: contents.size / len(contents.days) * per_day * len(manifests) / claims
        for tier, contents in sorted(exported.items())
        if claims and contents.days
    }
    growth = sealed_per_day + sum(exports.values())
    superseded = round_bytes * per_day * settings.seal.keep_rounds_days
    part = settings.seal.shard_bytes
    writes = per_day * (ROUND_WRITES + ROUND_LISTS) + ceil(sealed_per_day / min(part, STREAM_BYTES))
    writes += ceil(sum(exports.values()) / STREAM_BYTES)
    reads = per_day * (ROUND_READS + SEAL_READS) + ceil(sum(exports.values()) / STREAM_BYTES)
    prices = settings.cost
    stored = sum(sizes.values()) + corpus.totals().bytes + sum(contents.size for contents in exported.values())
    return Cost(
        store=corpus.store.url,
        days_observed=days,
        rounds_per_day=per_day,
        records_per_round=_records_per_round(corpus, manifests, live),
        round_bytes=round_bytes,
        sealed_bytes_per_day=sealed_per_day,
        export_bytes_per_day=exports,
        keep_rounds_days=settings.seal.keep_rounds_days,
        superseded_bytes=superseded,
        stored_bytes=stored,
        growth_bytes_per_day=growth,
        writes_per_day=writes,
        reads_per_day=reads,
        requests_cost_per_month=_MONTH * (writes * prices.put_1000 + reads * prices.get_1000) / 1000,
        storage_cost_now_per_month=stored / _GB * prices.gb_month,
        storage_cost_in_a_year_per_month=(stored + 365 * growth + superseded) / _GB * prices.gb_month,
    )


def _round_sizes(sizes: dict[str, int]) -> dict[str, int]:
    """Return the total size of each round's objects, by folder."""
    rounds: dict[str, int] = {}
    for key, size in sizes.items():
        if key.startswith(keys.ROUNDS):
            folder = key.rpartition("/")[0]
            rounds[folder] = rounds.get(folder, 0) + size
    return rounds


def _pace(manifests: Sequence[Manifest], live: Sequence[RoundRef], now: datetime) -> tuple[float, int]:
    """Return the days since the first round that is averaged over, at least an hour, and the number of rounds since."""
    rounds = len(live) + sum(manifest.rounds for manifest in manifests)
    names = [live[0].round_id] if live else []
    names += [named.round_id for manifest in manifests[:1] if (named := manifest.first_round) is not None]
    first = min((made_at(name) for name in names), default=now)
    return max((now - first).total_seconds() / 86_400, 1 / 24), rounds


def made_at(round_id: str) -> datetime:
    """Return when a round was made, which its ID begins with."""
    return datetime.strptime(round_id.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def _records_per_round(corpus: Corpus, manifests: Sequence[Manifest], live: Sequence[RoundRef]) -> float:
    if rounds := sum(manifest.rounds for manifest in manifests):
        return sum(manifest.records for manifest in manifests) / rounds
    some = [corpus.read_round(ref).statement.records for ref in live[-10:]]
    return sum(some) / len(some) if some else 0.0
