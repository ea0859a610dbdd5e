"""The status tells what lags behind, and its page and gauges say the same."""

import shutil
import subprocess
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from perturb.schemas.errors import TierError
from perturb.schemas.settings import Settings, load_settings
from perturb.schemas.status import Status
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.openmetrics import render_metrics, write_file
from perturb.sinks.report.status_page import render_page
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sinks.stores.open import open_store
from perturb.tasks.monitor.cost import ROUND_LISTS, ROUND_READS, ROUND_WRITES, estimate_cost
from perturb.tasks.monitor.latest_pairs import latest_pictures
from perturb.tasks.monitor.status import read_status
from tests.support.corpora import Made, make_corpus

YESTERDAY, TODAY = date(2026, 3, 1), date(2026, 3, 2)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIERS = """
format = 1
[tiers.now]
description = "at once"
columns = ["true_label"]
license = "none"
[tiers.later]
description = "in a month"
columns = ["true_label"]
delay_days = 30
license = "none"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tiers.toml").write_text(TIERS)
    return load_settings(store=str(tmp_path / "store"), tiers=tmp_path / "tiers.toml")


@pytest.fixture
def made(settings: Settings) -> Made:
    """A sealed day and a fresh one of six rounds of four answers, in which one label has a hostile name."""
    store = open_store(settings.store)
    make_corpus(store, days=[YESTERDAY])

    def changes(_: date, number: int, miner: int) -> dict[str, object]:
        asked = {"judge": "gemma", "semantic_mismatch": True} if miner == 0 else {}
        return asked | {"true_label": 1, "adversarial_label": number // 2, "true_label_name": HOSTILE}

    return make_corpus(store, days=[TODAY], seal=False, changes=changes)


def status_of(made: Made, settings: Settings, now: datetime = NOON) -> Status:
    return read_status(Corpus(made.corpus.store), settings, now=now)


def test_today_is_counted_and_yesterday_is_not(made: Made, settings: Settings) -> None:
    found = status_of(made, settings)
    assert (found.rounds, found.responses, found.accepted, found.miners) == (6, 24, 18, 4)
    assert found.refused == {"no_flip": 6}
    assert (found.live_rounds, found.sealed_days, found.sealed_records) == (6, 1, 24)
    assert found.unsealed_days == ()
    assert found.medians.linf_levels is not None
    # Six rounds asked for three pairs, each of them twice in a row.
    assert (found.judged, found.judge_hit_rate) == (6, 0.5)


def test_findings_come_and_go_with_their_cause(made: Made, settings: Settings) -> None:
    # The fixture's objects are written now, whatever their records' dates say.
    written = status_of(made, settings).last_commit
    assert written is not None
    patient = settings.model_copy(
        update={"status": settings.status.model_copy(update={"commit_minutes": 0, "export_hours": 1e9})}
    )
    assert status_of(made, patient).well
    parts = {finding.part for finding in status_of(made, settings, written + timedelta(minutes=16)).findings}
    assert "production" in parts
    assert "production" not in {
        finding.part for finding in status_of(made, settings, written + timedelta(minutes=14)).findings
    }
    unsealed = status_of(made, patient, datetime(2026, 3, 3, 3, 31, tzinfo=UTC))
    assert unsealed.unsealed_days == (TODAY,)
    assert [finding.part for finding in unsealed.findings] == ["seal"]
    assert status_of(made, patient, datetime(2026, 3, 3, 3, 29, tzinfo=UTC)).well


def test_export_lag_respects_each_tiers_delay(made: Made, settings: Settings) -> None:
    sealed_at = Corpus(made.corpus.store).manifests()[0].sealed_at
    lags = {lag.tier: lag for lag in status_of(made, settings, sealed_at + timedelta(hours=27)).exports}
    assert lags["now"].behind == (YESTERDAY,)
    assert lags["now"].oldest_due_s == pytest.approx(27 * 3600)
    assert any(
        finding.part == "export" for finding in status_of(made, settings, sealed_at + timedelta(hours=27)).findings
    )
    made.corpus.store.put("exports/now/.perturb/2026-03-01.json", b"{}")
    after = {lag.tier: lag for lag in status_of(made, settings, sealed_at + timedelta(hours=27)).exports}
    assert after["now"].behind == ()
    assert after["now"].exported_until == YESTERDAY


def test_a_delayed_tier_is_not_behind_before_its_time(made: Made, settings: Settings) -> None:
    long_ago = Corpus(made.corpus.store).manifests()[0]
    assert long_ago.sealed_at > NOON, "the fixture seals in the real present"
    early = {lag.tier: lag for lag in status_of(made, settings, NOON).exports}
    assert early["later"].behind == ()


def test_a_wrong_tier_file_is_named(made: Made, settings: Settings) -> None:
    settings.tiers.write_text("not toml")
    with pytest.raises(TierError, match=r"tiers\.toml"):
        status_of(made, settings)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.fetched: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.images += tag == "img"
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href") and "data:" not in (value or "")
        ]


def test_the_page_stands_alone_and_escapes_what_came_from_outside(made: Made, settings: Settings) -> None:
    found = status_of(made, settings)
    page = render_page(found, latest_pictures(Corpus(made.corpus.store), 3))
    tags = _Tags()
    tags.feed(page)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert (tags.scripts, tags.fetched, tags.images) == (0, [], 9)
    assert "no_flip" in page


def test_gauges_parse_and_agree(made: Made, settings: Settings, tmp_path: Path) -> None:
    found = status_of(made, settings)
    target = tmp_path / "textfile" / "perturb.prom"
    write_file(target, render_metrics(found))
    gauges = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(target.read_text())
        for sample in family.samples
    }
    assert gauges["perturb_today_accepted",] == 18
    assert gauges["perturb_today_refused", "no_flip"] == 6
    assert gauges["perturb_judge_hit_ratio",] == 0.5
    assert [path.name for path in target.parent.iterdir()] == ["perturb.prom"]


def test_the_cost_of_a_round_is_what_a_commit_asks_of_its_store(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A directory has shortcuts of its own; what costs money goes through the contract's plain calls.
    monkeypatch.setattr(DirectoryStore, "put_together", Store.put_together)
    calls: Counter[str] = Counter()

    def counted(name: str) -> Any:
        plain = getattr(DirectoryStore, name)

        def call(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return plain(*args, **more)

        return call

    for name in ("put_new", "get", "head", "entries"):
        monkeypatch.setattr(DirectoryStore, name, counted(name))
    make_corpus(open_store(settings.store), days=[TODAY], rounds=10, seal=False)
    writes, lists = calls["put_new"] / 10, calls["entries"] / 10
    reads = (calls["get"] + calls["head"]) / 10
    assert (writes, lists, reads) == (ROUND_WRITES, ROUND_LISTS, ROUND_READS)


def test_a_store_without_a_round_needs_attention(settings: Settings, tmp_path: Path) -> None:
    found = read_status(Corpus(open_store(str(tmp_path / "misspelt"))), settings)
    assert not found.well
    assert "misspelt" in found.findings[0].what


def test_cost_grows_with_what_is_kept(made: Made, settings: Settings) -> None:
    store = made.corpus.store
    now = datetime(2026, 3, 3, tzinfo=UTC)
    found = estimate_cost(Corpus(store), settings, now=now)
    total = sum(entry.size for entry in store.entries())
    assert found.stored_bytes == total
    assert found.rounds_per_day == pytest.approx(12 / 2, rel=0.01)
    assert found.records_per_round == 4
    assert found.superseded_bytes == pytest.approx(found.round_bytes * found.rounds_per_day * 7)
    store.put("exports/now/parquet/data/train/2026-03-01-00000.parquet", b"x" * 5000)
    grown = estimate_cost(Corpus(store), settings, now=now)
    assert grown.export_bytes_per_day == {"now": 5000}
    assert grown.growth_bytes_per_day == found.growth_bytes_per_day + 5000


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_the_page(made: Made, settings: Settings, tmp_path: Path) -> None:
    page, shot = tmp_path / "status.html", tmp_path / "status.png"
    page.write_text(render_page(status_of(made, settings), latest_pictures(Corpus(made.corpus.store), 3)))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,2200")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    subprocess.run(
        [str(BROWSER), *flags, profile, f"--screenshot={shot}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape[:2] == (2200, 1000)
    # Text and rules are grey; bars, verdict and pictures are what has colours.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000
    assert (pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 60).sum() > 1000
