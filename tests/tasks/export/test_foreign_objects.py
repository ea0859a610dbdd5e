"""What other programs leave in a corpus changes nothing: not reading, auditing, exporting, or collecting garbage."""

import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.keys import exported_days, releases
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.sinks.stores.own_keys import is_own_key
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.export.export import export
from perturb.tasks.export.share import share
from perturb.tasks.monitor.cost import estimate_cost
from perturb.tasks.monitor.status import read_status
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import make_corpus

NOW = datetime(2027, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, 1), date(2026, 1, 2)]
TIER = load_tiers(Path("tiers.toml"))["research"].model_copy(update={"delay_days": 7})


def copies(folder: Path, name: Callable[[Path], str]) -> None:
    for file in [path for path in folder.iterdir() if path.is_file()]:
        shutil.copy(file, folder / name(file))


def whole_copy(folder: Path, name: str) -> None:
    """A copy of the folder inside itself, as a versioning synchroniser makes one."""
    content = [path for path in folder.iterdir() if path.name not in (name, ".unfinished")]
    (folder / name).mkdir()
    for path in content:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / name / path.name)


LITTER: dict[str, Callable[[Path], Any]] = {
    "mac": lambda d: [(d / name).write_bytes(b"x") for name in (".DS_Store", "._manifest.json", "Icon\r")],
    "windows": lambda d: [(d / name).write_bytes(b"x") for name in ("Thumbs.db", "desktop.ini")],
    "network disk": lambda d: ((d / "@eaDir").mkdir(), (d / "@eaDir" / "metadata.parquet").write_bytes(b"x")),
    "deleted on NFS": lambda d: (d / ".nfs000abc").write_bytes(b"x"),
    "note": lambda d: [
        (d / name).write_bytes(b"x") for name in ("read me.txt", "notes.txt", "größe.txt", "00000.json~")
    ],
    "unprintable name": lambda d: Path(str(d / "na\udcffme")).write_bytes(b"x"),
    "empty folders": lambda d: [(d / name).mkdir() for name in ("New folder", "backup")],
    "conflict in Nextcloud": lambda d: copies(d, lambda f: f"{f.stem} (conflicted copy 2026-01-31){f.suffix}"),
    "conflict in Syncthing": lambda d: copies(d, lambda f: f"{f.stem}.sync-conflict-20260131-120000-AB3{f.suffix}"),
    "backup": lambda d: copies(d, lambda f: f"{f.name}.bak"),
    "versions": lambda d: whole_copy(d, ".stversions"),
    "link in a circle": lambda d: (d / "loop").symlink_to(d),
    "link to itself": lambda d: (d / "self").symlink_to("self"),
    "link to nothing": lambda d: (d / "0badbeef").symlink_to("nothing"),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sealed days, one of them exported and released, and a live day."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        folder = tmp_path_factory.mktemp("clean") / "corpus"
        corpus = make_corpus(open_store(str(folder)), days=DAYS, rounds=2).corpus
        make_corpus(corpus.store, days=[date(2026, 1, 3)], rounds=1, seal=False, seed=1)
        export(corpus, TIER, today=date(2026, 1, 9), release="2026-q1")
    return folder


def seen(folder: Path) -> dict[str, object]:
    """What each reader of the corpus finds, by a corpus that has read nothing yet."""
    corpus, settings = Corpus(open_store(str(folder))), Settings(store=str(folder))
    garbage = collect_garbage(corpus, grace=timedelta(0), keep_superseded=timedelta(0), dry_run=True, now=NOW)
    return {
        "records": corpus.dataset().count_rows(),
        "live": corpus.live_rounds(),
        "log": [date.fromisoformat(str(record.entry.detail["day"])) for record in Log(corpus.store).records()],
        "open day": corpus.open_day(datetime(2026, 1, 1, tzinfo=UTC)),
        "faults": audit(corpus).faults,
        "findings": read_status(corpus, settings, now=NOW).findings,
        "cost": estimate_cost(corpus, settings, now=NOW).stored_bytes,
        "exported": exported_days(corpus.store, TIER.name),
        "releases": releases(corpus.store, TIER.name),
        "shared": len(share(corpus.store, TIER.name).files),
        "to export": [added.day for added in export(corpus, TIER, today=date(2027, 1, 1), dry_run=True).added],
        "garbage": sorted(entry.key for entry in garbage.removed),
        "unfinished": corpus.store.unfinished(),
    }


@pytest.mark.parametrize("litter", LITTER)
def test_foreign_objects_change_nothing(clean: Path, tmp_path: Path, litter: str) -> None:
    dirty = tmp_path / "corpus"
    shutil.copytree(clean, dirty)
    for folder in [dirty, *(path for path in sorted(dirty.rglob("*")) if path.is_dir())]:
        LITTER[litter](folder)
    truth, found = seen(clean), seen(dirty)
    assert found == truth
    assert (truth["log"], truth["to export"]) == (DAYS, DAYS[1:])


def test_all_that_the_project_writes_is_listed(clean: Path) -> None:
    """Whoever adds a kind of object adds its name to `own_keys`; without it the object would be passed over."""
    there = {str(path.relative_to(clean)) for path in clean.rglob("*") if path.is_file()}
    assert {entry.key for entry in open_store(str(clean)).entries()} == there
    assert not is_own_key("rounds/"), "the marker that consoles of S3 services create for a folder"


def test_a_gap_in_the_log_is_a_fault_beside_foreign_objects_too(clean: Path, tmp_path: Path) -> None:
    broken = tmp_path / "corpus"
    shutil.copytree(clean, broken)
    (broken / "log/00000000.json").rename(broken / "log/00000000 (conflicted copy).json")
    corpus = Corpus(open_store(str(broken)))
    with pytest.raises(CorpusError, match=r"log/00000000.json is missing from the log; restore it"):
        list(Log(corpus.store).records())
    assert "log/" in {fault.where for fault in audit(corpus).faults}
