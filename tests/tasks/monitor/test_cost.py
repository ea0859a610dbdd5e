"""The estimate of costs: requests as the steps really make them, money as the settings' prices say."""

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import SealSettings, Settings, load_settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import ExportContents, write_contents
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.stores import directory
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.monitor.cost import ROUND_LISTS, ROUND_READS, ROUND_WRITES, SEAL_READS, estimate_cost
from tests.support.corpora import Made, make_corpus
from tests.support.monitored import TODAY, YESTERDAY

READS = ("get", "head", "get_range", "get_ranges", "stream")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of a directory store that are requests on a service."""
    # A directory commits a round in one step of its own; on a service these are the plain calls of the base class.
    monkeypatch.setattr(DirectoryStore, "put_together", Store.put_together)
    counts: Counter[str] = Counter()

    def counted(name: str) -> Any:
        plain = getattr(DirectoryStore, name)

        def call(*args: Any, **more: Any) -> Any:
            # What the directory store calls itself is not a request.
            counts[name] += sys._getframe(1).f_code.co_filename != directory.__file__
            return plain(*args, **more)

        return call

    for name in ("put_new", "entries", *READS):
        monkeypatch.setattr(DirectoryStore, name, counted(name))
    return counts


def test_the_requests_of_a_round_are_those_of_a_commit(settings: Settings, calls: Counter[str]) -> None:
    make_corpus(open_store(settings.store), days=[TODAY], rounds=10, seal=False)
    writes, lists = calls["put_new"] / 10, calls["entries"] / 10
    reads = sum(calls[name] for name in READS) / 10
    assert (writes, lists, reads) == (ROUND_WRITES, ROUND_LISTS, ROUND_READS)


def test_the_reads_of_sealing_are_those_of_a_seal(tmp_path: Path, calls: Counter[str]) -> None:
    reads = []
    for rounds in (4, 14):
        corpus = make_corpus(open_store(str(tmp_path / f"{rounds}")), days=[TODAY], rounds=rounds, seal=False).corpus
        calls.clear()
        seal_day(corpus, TODAY, settings=SealSettings(grace_minutes=0, reverify_fraction=0), early=True)
        reads.append(sum(calls[name] for name in READS))
    # What a seal reads once, whatever the number of rounds, is in both counts.
    assert (reads[1] - reads[0]) / 10 == SEAL_READS


def test_cost_follows_sizes_and_prices(made: Made, settings: Settings) -> None:
    store = made.corpus.store
    now = datetime(2026, 3, 3, tzinfo=UTC)
    priced = load_settings(
        store=settings.store, tiers=settings.tiers, cost={"gb_month": 2.0, "put_1000": 3.0, "get_1000": 5.0}
    )
    found = estimate_cost(Corpus(store), priced, now=now)
    small = ("log/", "/manifest.json", "operator/")
    assert found.stored_bytes == sum(
        entry.size for entry in store.entries() if not any(part in entry.key for part in small)
    )
    assert found.rounds_per_day == pytest.approx(12 / 2, rel=0.01)
    assert found.records_per_round == 4
    assert found.superseded_bytes == pytest.approx(found.round_bytes * found.rounds_per_day * 7)
    # Three PUTs and a LIST for each round, and one PUT for the day's file; a GET to commit and three to seal.
    assert found.writes_per_day == pytest.approx(4 * found.rounds_per_day + 1)
    assert found.reads_per_day == pytest.approx(4 * found.rounds_per_day)
    assert found.requests_cost_per_month == pytest.approx(
        30 * (3 * found.writes_per_day + 5 * found.reads_per_day) / 1000
    )
    assert found.storage_cost_now_per_month == pytest.approx(2 * found.stored_bytes / 1e9)
    in_a_year = found.stored_bytes + 365 * found.growth_bytes_per_day + found.superseded_bytes
    assert found.storage_cost_in_a_year_per_month == pytest.approx(2 * in_a_year / 1e9)

    key = "parquet/data/train/2026-03-01-00000.parquet"
    file = ExportFile(key=key, root="parquet", split="train", rows=1, size=5000, sha256="0" * 64)
    write_contents(store, ExportContents(tier="now", days={YESTERDAY: "0" * 64}, files=(file,)))
    grown = estimate_cost(Corpus(store), priced, now=now)
    assert grown.export_bytes_per_day == {"now": 5000}
    assert grown.growth_bytes_per_day == found.growth_bytes_per_day + 5000


def test_without_a_round_there_is_nothing_to_estimate_from(settings: Settings) -> None:
    with pytest.raises(CorpusError, match="holds no rounds to estimate from; run `perturb produce`"):
        estimate_cost(Corpus(open_store(settings.store)), settings)
