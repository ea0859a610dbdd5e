"""An audit that goes on where the last one ended, and the tables beside a day's metadata."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import SealSettings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import read_day_table, read_state
from perturb.sinks.corpus.miner_state import advance
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus import seal as sealing
from perturb.tasks.corpus.audit import audit
from tests.support.small_corpora import TODAY, commit, seal, small, whats

DAYS = [TODAY + timedelta(days=place) for place in range(4)]


def made_on(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def four_days(folder: Path) -> Corpus:
    corpus = Corpus(open_store(str(folder)))
    for place, day in enumerate(DAYS):
        commit(corpus, small(place, created_at=made_on(day)))
        seal(corpus, day, early=True)
    return corpus


def test_what_was_audited_before_is_not_read_again(tmp_path: Path) -> None:
    corpus = four_days(tmp_path)
    # Of the days before, an audit needs the state of miners of the last one, and the claims on rounds that are there.
    for day in DAYS[:2]:
        manifest = corpus.manifest(day)
        assert manifest is not None
        for entry in manifest.files:
            if entry.kind not in ("miners", "claims"):
                corpus.store.delete(entry.key)
    for options in ({"since": DAYS[2]}, {"since_entry": 2}):
        report = audit(Corpus(corpus.store), **options)  # type: ignore[arg-type]
        assert report.holds, whats(report)
        assert (report.days, report.entries) == (2, 2)
    assert not audit(Corpus(corpus.store)).holds
    with pytest.raises(CorpusError, match="the log has no entry 4; it has 4, numbered from 0"):
        audit(corpus, since_entry=4)
    later = audit(corpus, since=DAYS[3] + timedelta(days=1))
    assert (later.holds, later.days, later.entries) == (True, 0, 0)


def test_a_state_that_does_not_follow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(open_store(str(tmp_path)))
    commit(corpus, small(1))
    seal(corpus, TODAY, early=True)

    def generous(*args: Any, **options: Any) -> Any:
        state = advance(*args, **options)
        return state | {place: replace(one, processed=one.processed + 100) for place, one in state.items()}

    commit(corpus, small(2, created_at=made_on(DAYS[1])))
    with monkeypatch.context() as patch:
        patch.setattr(sealing, "advance", generous)
        manifest = seal(corpus, DAYS[1], early=True).manifest
    report = audit(corpus, since=DAYS[1])
    assert [fault.where for fault in report.faults] == [manifest.file("miners")[0].key]
    assert f"the state of miners does not follow from {TODAY} and the records: processed of uid 0 is" in whats(report)


def test_a_manifest_is_as_large_for_many_rounds_as_for_few(tmp_path: Path) -> None:
    sizes = []
    for rounds in (2, 12):
        corpus = Corpus(open_store(str(tmp_path / str(rounds))))
        for place in range(rounds):
            commit(corpus, small(place, created_at=made_on(TODAY, 1 + place)))
        manifest = seal(corpus, TODAY, early=True, settings=SealSettings()).manifest
        assert corpus.claims(manifest) == {
            small(p, created_at=made_on(TODAY, 1 + p)).challenge.round_id for p in range(rounds)
        }
        assert sum(read_day_table(corpus.store, manifest, "claims")["records"].to_pylist()) == manifest.records
        sizes.append(len(manifest.to_json()))
    # A few digits of counts.
    assert abs(sizes[1] - sizes[0]) < 60


def test_a_record_that_was_sealed_late_is_found_by_its_id(tmp_path: Path) -> None:
    corpus = Corpus(open_store(str(tmp_path)))
    commit(corpus, small(1))
    first = seal(corpus, TODAY, early=True).manifest
    # Made on the sealed day, committed afterwards.
    late = commit(corpus, small(2, created_at=made_on(TODAY, 13)))
    commit(corpus, small(3, created_at=made_on(DAYS[1])))
    second = seal(corpus, DAYS[1], early=True).manifest
    record = late.records[0].record_id
    assert record.startswith(f"{TODAY:%Y%m%d}")
    assert [day.day for day in Corpus(corpus.store).days_of(record)] == [first.day, second.day]
    assert audit(corpus).holds
    key = keys.late_key(TODAY, DAYS[1])
    corpus.store.delete(key)
    assert [fault.where for fault in audit(corpus).faults] == [key]
    with pytest.raises(CorpusError, match="'x' is not a record ID"):
        corpus.days_of("x")
    assert read_state(corpus.store, second)[26, 0].asked == 3


def test_a_corpus_of_format_1_is_named(tmp_path: Path) -> None:
    corpus = Corpus(open_store(str(tmp_path)))
    corpus.store.put("sealed/log/00000000.json", b'{"format":1}')
    with pytest.raises(CorpusError, match=r"holds a corpus of format 1 .* name an empty store for a new corpus"):
        corpus.newest()
    with pytest.raises(CorpusError, match="holds a corpus of format 1"):
        audit(corpus)
    with pytest.raises(CorpusError, match="holds a corpus of format 1"):
        seal(corpus, TODAY)


def test_a_log_that_skips_a_day_is_named(tmp_path: Path) -> None:
    corpus = four_days(tmp_path)
    table = read_day_table(corpus.store, corpus.newest(), "miners")  # type: ignore[arg-type]
    assert isinstance(table, pa.Table)
    newest = corpus.newest()
    assert newest is not None
    assert newest.previous_day == DAYS[2]
    assert [day.day for day in corpus.newest_days(DAYS[1])] == DAYS[1:]
    assert [day.day for day in corpus.newest_days(DAYS[0], most=2)] == DAYS[2:]
    assert Log(corpus.store).newest().entry.totals == corpus.totals()  # type: ignore[union-attr]
    assert corpus.totals().days == 4
