"""The status tells what lags behind, and its page and gauges say the same."""

import shutil
import subprocess
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from perturb.schemas.errors import StoreError, TierError
from perturb.schemas.settings import Settings
from perturb.schemas.status import Status
from perturb.schemas.target_matrix import TargetMatrix
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.report.openmetrics import write_metrics
from perturb.sinks.report.status_page import render_page, write_page
from perturb.sinks.stores.open import open_store
from perturb.tasks.monitor.latest_pairs import latest_pairs
from perturb.tasks.monitor.status import read_status
from tests.support.corpora import Made, make_corpus
from tests.support.monitored import HOSTILE, TODAY, YESTERDAY

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


@pytest.mark.parametrize(("answers", "accepted", "reported"), [(20, 0, True), (16, 0, False), (20, 1, False)])
def test_a_day_without_an_accepted_answer_is_reported(
    settings: Settings, answers: int, accepted: int, reported: bool
) -> None:
    refused = 4 - accepted
    made = make_corpus(open_store(settings.store), days=[TODAY], rounds=answers // 4, refused=refused, seal=False)
    found = [finding for finding in status_of(made, settings).findings if finding.part == "answers"]
    assert [finding.what for finding in found] == (
        ["all of today's 20 answers were refused, 20 of them as no_flip"] if reported else []
    )


@pytest.mark.parametrize(("days_ago", "known"), [(6, 1), (7, 0)])
def test_judgements_of_a_week_count_as_known(settings: Settings, days_ago: int, known: int) -> None:
    def changes(_: date, number: int, miner: int) -> dict[str, object]:
        return {"judge": "gemma", "semantic_mismatch": True, "true_label": 1, "adversarial_label": 2}

    store = open_store(settings.store)
    make_corpus(store, days=[TODAY - timedelta(days=days_ago)], rounds=1, changes=changes)
    found = status_of(make_corpus(store, days=[TODAY], rounds=1, seal=False, changes=changes), settings)
    assert (found.judged, found.judge_hit_rate) == (1, known)


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


def test_other_objects_beside_an_export_are_ignored(made: Made, settings: Settings) -> None:
    made.corpus.store.put("exports/now/.perturb/2026-03-01.json", b"{}")
    for name in (".DS_Store", "notes.txt", "2026-03-01.json.tmp", "2026-13-45.json", "old/2026-03-02.json"):
        made.corpus.store.put(f"exports/now/.perturb/{name}", b"from a file manager")
    lags = {lag.tier: lag for lag in status_of(made, settings).exports}
    assert (lags["now"].exported_until, lags["now"].behind) == (YESTERDAY, ())


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
    page = render_page(found, latest_pairs(Corpus(made.corpus.store), 3), TargetMatrix({}))
    tags = _Tags()
    tags.feed(page)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert (tags.scripts, tags.fetched, tags.images) == (0, [], 9)
    assert "no_flip" in page


def test_gauges_parse_and_agree(made: Made, settings: Settings, tmp_path: Path) -> None:
    found = status_of(made, settings)
    target = tmp_path / "textfile" / "perturb.prom"
    write_metrics(target, found)
    gauges = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(target.read_text())
        for sample in family.samples
    }
    assert gauges["perturb_today_accepted",] == 18
    assert gauges["perturb_today_refused", "no_flip"] == 6
    assert gauges["perturb_judge_hit_ratio",] == 0.5
    assert [path.name for path in target.parent.iterdir()] == ["perturb.prom"]
    # The collector is another user.
    assert target.stat().st_mode & 0o044 == 0o044

    write_page(target.with_name("status.html"), found, [], TargetMatrix({}))
    assert sorted(path.name for path in target.parent.iterdir()) == ["perturb.prom", "status.html"]
    with pytest.raises(StoreError, match=r"perturb\.prom.*cannot be written"):
        write_metrics(target / "perturb.prom", found)


def test_a_store_without_a_round_needs_attention(settings: Settings, tmp_path: Path) -> None:
    found = read_status(Corpus(open_store(str(tmp_path / "misspelt"))), settings)
    assert not found.well
    assert "misspelt" in found.findings[0].what


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_the_page(made: Made, settings: Settings, tmp_path: Path) -> None:
    page, shot = tmp_path / "status.html", tmp_path / "status.png"
    page.write_text(
        render_page(status_of(made, settings), latest_pairs(Corpus(made.corpus.store), 3), TargetMatrix({}))
    )
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
