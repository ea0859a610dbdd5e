"""What `tiers check` proves on a corpus, and what `tiers preview` shows."""

from datetime import date
from pathlib import Path

import pytest

from perturb.sinks.report.contact_sheet import contact_sheet
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.preview import check_tiers, preview
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import Made, make_corpus

SHIPPED = Path("tiers.toml")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_corpus(open_store(str(tmp_path / "corpus")), days=[date(2026, 1, 1), date(2026, 1, 2)], rounds=8)


def test_shipped_tiers_hold_and_a_predicate_that_lets_more_through_is_named(made: Made, tmp_path: Path) -> None:
    found = check_tiers(made.corpus, SHIPPED)
    assert found.holds, found.faults
    counts = [state.records for state in found.tiers]
    assert counts == sorted(counts)
    assert counts[-1] == found.accepted == sum(row["outcome"] == "accepted" for row in made.rows)
    wrong = tmp_path / "tiers.toml"
    wrong.write_text(SHIPPED.read_text().replace('where = "linf_levels <= 8"', 'where = "linf_levels > 1"'))
    faulty = check_tiers(made.corpus, wrong)
    line = 1 + SHIPPED.read_text().split("[tiers.sample]")[0].count("\n") + 2
    assert faulty.faults
    assert all(fault.startswith(f"{wrong}, line {line}: ") and "not in research" in fault for fault in faulty.faults)


def test_a_preview_shows_what_a_subscriber_would_see(made: Made) -> None:
    tiers = load_tiers(SHIPPED)
    for name in ("sample", "professional"):
        found = preview(made.corpus, tiers[name], rows=3)
        assert len(found.rows) == len(found.pairs) == 3
        assert sum(found.splits.values()) == sum(found.days.values()) == found.records
        assert ("miner_pseudonym" in found.rows[0]) == (name == "professional")
        assert "miner_hotkey" not in found.rows[0]
        assert contact_sheet(found.pairs).size[0] > 600


def test_a_corpus_without_sealed_days_has_nothing_to_show(tmp_path: Path) -> None:
    made = make_corpus(open_store(str(tmp_path)), days=[date(2026, 1, 1)], rounds=1, seal=False)
    assert check_tiers(made.corpus, SHIPPED).days == ()
    assert preview(made.corpus, load_tiers(SHIPPED)["sample"]).records == 0
