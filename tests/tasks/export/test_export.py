"""An export grows by days, survives interruptions, and is the same bytes wherever and however it is made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from perturb.schemas.errors import CorpusError, PerturbError, TierError
from perturb.schemas.image import pixel_identity
from perturb.schemas.png import stored_pixels
from perturb.schemas.tier import DEFAULT_LAYOUTS, Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.day_index import DayIndex
from perturb.sinks.stores.base import Buffer, ObjectWriter
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export, export_day
from perturb.tasks.export.operator_state import definition
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import Made, make_corpus

DAYS = [date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)]
LATER = date(2027, 1, 1)
KEY = SecretStr("a key of the test's own")
RESEARCH = load_tiers(Path("tiers.toml"))["research"].model_copy(update={"delay_days": 7})


def tree(folder: Path, tier: str = "research") -> dict[str, bytes]:
    root = folder / "exports" / tier
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def corpus_at(folder: Path, days: list[date] = DAYS, **options: Any) -> Made:
    return make_corpus(open_store(str(folder)), days=days, **options)


@pytest.mark.slow
def test_days_come_one_by_one_or_all_at_once_to_the_same_bytes(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path / "one")
    for day in DAYS:
        result = export(made.corpus, RESEARCH, today=date(2026, 1, day.day + 8), key=KEY)
        assert [added.day for added in result.added] == [day]
        assert list(result.waiting) == [later for later in DAYS if later > day]
    again = export(made.corpus, RESEARCH, today=LATER, key=KEY)
    assert again.added == ()
    corpus_at(tmp_path / "all")
    at_once = export(Corpus(open_store(str(tmp_path / "all"))), RESEARCH, today=LATER, key=KEY)
    assert (at_once.version, at_once.records, at_once.bytes) == ("1.3.0", again.records, again.bytes)
    one, all_ = tree(tmp_path / "one"), tree(tmp_path / "all")
    older = {name for name in one if "/.meta/1.2.0/" in name}
    assert {name: one[name] for name in one.keys() - older} == all_
    assert not any("/.meta/1.1.0/" in name for name in one)


def test_days_written_side_by_side_in_any_order_are_the_same_export(tmp_path: Path, plain_plots: None) -> None:
    def from_the_last(write: Callable[[date], DayIndex], days: Sequence[date]) -> list[DayIndex]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(write, reversed(days)))

    corpus_at(tmp_path / "alone")
    alone = export(Corpus(open_store(str(tmp_path / "alone"))), RESEARCH, today=LATER, key=KEY)
    corpus_at(tmp_path / "together")
    together = export(
        Corpus(open_store(str(tmp_path / "together"))), RESEARCH, today=LATER, key=KEY, map_days=from_the_last
    )
    assert together == replace(alone, path=together.path)
    assert [added.day for added in together.added] == DAYS
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    with pytest.raises(CorpusError, match="2026-02-01 is not sealed"):
        export_day(Corpus(open_store(str(tmp_path / "alone"))), RESEARCH, date(2026, 2, 1), key=KEY)


def test_files_of_earlier_days_never_change(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path)
    export(made.corpus, RESEARCH, today=date(2026, 1, 9), key=KEY)
    before = tree(tmp_path)
    export(made.corpus, RESEARCH, today=LATER, key=KEY)
    after = tree(tmp_path)
    day_files = [name for name in before if "/data/" in name or name.startswith(".perturb/2")]
    assert day_files
    assert all(before[name] == after[name] for name in day_files)
    assert before["parquet/README.md"] != after["parquet/README.md"]


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path)
    planned = export(made.corpus, RESEARCH, today=LATER, key=KEY, dry_run=True)
    assert not (tmp_path / "exports").exists()
    done = export(made.corpus, RESEARCH, today=LATER, key=KEY)
    assert [(day.day, day.records, day.files) for day in planned.added] == [
        (day.day, day.records, day.files) for day in done.added
    ]


class Interrupted(Exception):
    """The end of the process, as far as the export can tell."""


class Fragile(DirectoryStore):
    """A store that is gone after so many writes; in the midst of a file where `torn`."""

    left = 10**9
    torn = False

    def _write(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted

    @contextmanager
    def create(self, key: str) -> Iterator[ObjectWriter]:
        with super().create(key) as writer:
            if not self.torn:
                self._write()
            yield writer
            if self.torn:
                self._write()

    def put(self, key: str, data: Buffer) -> None:
        self._write()
        super().put(key, data)


def test_an_export_interrupted_at_any_write_ends_in_the_same_bytes(tmp_path: Path, plain_plots: None) -> None:
    folder = tmp_path / "whole"
    corpus_at(folder, DAYS[:2], rounds=3)
    export(Corpus(open_store(str(folder))), RESEARCH, today=LATER, key=KEY)
    whole = tree(folder)
    cards = {whole[f"{root}/README.md"] for root in ("parquet", "wds", "by_photo")}
    folder = tmp_path / "broken"
    corpus_at(folder, DAYS[:2], rounds=3)
    interruptions = 0
    while True:
        store = Fragile(folder)
        # Each run gets a little further than the one before, and stops before a write or at the end of one.
        store.left, store.torn = interruptions, interruptions % 2 == 0
        try:
            export(Corpus(store), RESEARCH, today=LATER, key=KEY)
        except Interrupted:
            interruptions += 1
            visible = [path.read_bytes() for path in (folder / "exports").rglob("README.md")]
            assert set(visible) <= cards
            assert interruptions < 60
            continue
        break
    assert interruptions >= 5
    assert tree(folder) == whole


SCRIPT = """
import sys
from datetime import date
from pathlib import Path
from pydantic import SecretStr
from tests.support.corpora import make_corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export, export_day
from perturb.tasks.export.operator_state import definition
from perturb.tasks.tiers.tier_file import load_tiers
made = make_corpus(open_store(sys.argv[1]), days=[date(2026, 1, 1), date(2026, 1, 2)], rounds=3)
export(made.corpus, load_tiers(Path("tiers.toml"))["research"], today=date(2027, 1, 1), key=SecretStr("k" * 20))
"""


@pytest.mark.slow
def test_another_machine_makes_the_same_bytes(tmp_path: Path) -> None:
    """Time zone, locale, hash seed, thread counts and the reader's matplotlib settings; real plots included."""
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsavefig.dpi: 30\naxes.facecolor: red\n")
    here = {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
    there = {
        "TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "8",
        "ARROW_NUM_THREADS": "8", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
    }  # fmt: skip
    for name, environment in (("here", here), ("there", there)):
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / name)], env=os.environ | environment, check=True, timeout=200
        )
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert any(name.endswith("flips.png") for name in tree(tmp_path / "here"))


def test_a_tier_of_another_definition_and_a_release_that_exists_are_refused(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path, DAYS[:1])
    export(made.corpus, RESEARCH, today=LATER, key=KEY, release="2026-q1")
    kept = tree(tmp_path)
    for change in ({"fraction": 0.4}, {"columns": ("linf",)}, {"where": "linf_levels <= 1"}, {"layouts": ("pairs",)}):
        with pytest.raises(TierError, match=next(iter(change))):
            export(made.corpus, RESEARCH.model_copy(update=change), today=LATER, key=KEY)
    with pytest.raises(TierError, match="key"):
        export(made.corpus, RESEARCH, today=LATER, key=SecretStr("another key of some length"))
    with pytest.raises(TierError, match="exists"):
        export(made.corpus, RESEARCH, today=LATER, key=KEY, release="2026-q1")
    with pytest.raises(TierError, match="release name"):
        export(made.corpus, RESEARCH, today=LATER, key=KEY, release="../sealed")
    with pytest.raises(TierError, match="16"):
        export(made.corpus, RESEARCH, today=LATER, key=SecretStr("short"))
    assert tree(tmp_path) == kept
    # Tiers without a word about layouts have the definition from before there were any.
    assert "layouts" not in definition(RESEARCH.model_copy(update={"layouts": DEFAULT_LAYOUTS}), b"")
    # Words may change: they stand in the card alone.
    export(made.corpus, RESEARCH.model_copy(update={"license": "Other terms."}), today=LATER, key=KEY)
    assert b"Other terms." in tree(tmp_path)["parquet/README.md"]


def test_a_release_lists_what_was_there_and_stays(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path)
    export(made.corpus, RESEARCH, today=date(2026, 1, 9), key=KEY, release="first")
    frozen = tree(tmp_path)["releases/first.json"]
    export(made.corpus, RESEARCH, today=LATER, key=KEY)
    assert tree(tmp_path)["releases/first.json"] == frozen
    listed = json.loads(frozen)
    assert listed["version"] == "1.1.0"
    assert listed["days"] == ["2026-01-01"]
    assert {file["key"] for file in listed["files"]} == {
        path for splits in listed["data_files"].values() for paths in splits.values() for path in paths
    }


@pytest.mark.parametrize("image", ["original", "perturbed"])
def test_a_damaged_image_is_never_sold(tmp_path: Path, plain_plots: None, image: str) -> None:
    made = corpus_at(tmp_path, DAYS[:1])
    (shard,) = (tmp_path / "sealed").rglob(f"{image}-00000.tar")
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    shard.write_bytes(data)
    everything = Tier(name="all", description="d", columns=("linf",), license="l")
    with pytest.raises(CorpusError, match="perturb audit"):
        export(made.corpus, everything, today=LATER)
    assert not list((tmp_path / "exports").rglob("*.json"))


def test_splits_are_by_photograph_and_a_pseudonym_holds_in_its_tier_only(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path, DAYS[:1], rounds=40)
    named = {}
    for name in ("one", "two"):
        tier = Tier(
            name=name, description="d", columns=("original_sha256", "perturbed_sha256"), miner="pseudonym", license="l"
        )
        export(made.corpus, tier, today=LATER)
        files = list((tmp_path / "exports" / name / "parquet").rglob("*.parquet"))
        splits: dict[str, str] = {}
        for file in files:
            for row in pq.read_table(
                file, columns=["original_sha256", "perturbed_sha256", "miner_pseudonym"]
            ).to_pylist():
                assert splits.setdefault(row["original_sha256"], file.parent.name) == file.parent.name
                named[name, row["perturbed_sha256"]] = row["miner_pseudonym"]
        assert len(set(splits.values())) >= 2
    hotkeys = {row["perturbed_sha256"]: row["miner_hotkey"] for row in made.rows if row["outcome"] == "accepted"}
    for name in ("one", "two"):
        pairs = {(hotkey, named[name, identity]) for identity, hotkey in hotkeys.items()}
        assert len(pairs) == len(set(hotkeys.values())) == len({pseudonym for _, pseudonym in pairs})
    assert not {n for (tier, _), n in named.items() if tier == "one"} & {
        n for (tier, _), n in named.items() if tier == "two"
    }


def test_lower_tiers_are_subsets(tmp_path: Path, plain_plots: None) -> None:
    made = corpus_at(tmp_path, DAYS[:1], rounds=12)
    pairs = {}
    for name, tier in load_tiers(Path("tiers.toml")).items():
        export(made.corpus, tier, today=LATER, key=KEY)
        files = (tmp_path / "exports" / name / "parquet").rglob("*.parquet")
        pairs[name] = {
            pixel_identity(stored_pixels(row["perturbed"]["bytes"]))
            for file in files
            for row in pq.read_table(file, columns=["perturbed"]).to_pylist()
        }
    assert pairs["sample"] <= pairs["research"] <= pairs["professional"] == pairs["enterprise"]
    assert 0 < len(pairs["sample"]) < len(pairs["research"]) < len(pairs["professional"])


def test_every_error_is_a_sentence_with_an_exit_code() -> None:
    assert issubclass(TierError, PerturbError)
    assert TierError.exit_code == 9
