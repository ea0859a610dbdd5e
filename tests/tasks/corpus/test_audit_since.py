"""An audit that goes on where the last one ended, and the tables beside a day's metadata."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import SealSettings, load_settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import read_day_table, read_state
from perturb.sinks.corpus.miner_state import advance
from perturb.sinks.corpus.rounds import draft_round, write_round
from perturb.sinks.log.log import LOG, Log
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus import seal as sealing
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.audit_onward import audit_onward, progress_file
from perturb.tasks.corpus.gc import collect_garbage
from tests.support.corpora import VALIDATOR
from tests.support.small_corpora import NO_GRACE, TODAY, commit, seal, small, whats

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
        told: list[str] = []
        report = audit(Corpus(corpus.store), tell=told.append, **options)  # type: ignore[arg-type]
        assert report.holds, whats(report)
        assert (report.days, report.entries) == (2, 2)
        assert told == [f"day {day}, {place} of 2" for place, day in enumerate(DAYS[2:], start=1)]
    assert not audit(Corpus(corpus.store)).holds
    with pytest.raises(CorpusError, match="the log has no entry 5; it has 4, numbered from 0"):
        audit(corpus, since_entry=5)
    for options in ({"since": DAYS[3] + timedelta(days=1)}, {"since_entry": 4}):
        later = audit(corpus, **options)  # type: ignore[arg-type]
        assert (later.holds, later.days, later.entries, later.reached) == (True, 0, 0, 4)


def test_a_copy_of_a_round_from_a_day_before_is_found(tmp_path: Path) -> None:
    corpus = four_days(tmp_path)
    collect_garbage(corpus, grace=NO_GRACE, keep_superseded=NO_GRACE)
    made = small(0, created_at=made_on(DAYS[0]))
    elsewhere = Corpus(open_store(str(tmp_path / "elsewhere")))
    records = commit(elsewhere, made).records
    bodies = {record.record_id: response.body for record, response in zip(records, made.responses, strict=True)}
    copy = draft_round(DAYS[3] + timedelta(days=1), records, made.challenge.png, bodies, signer=None)
    write_round(corpus.store, copy)
    expected = f"task {records[0].task_id} is in {keys.manifest_key(DAYS[0])} too: its records are in the corpus twice"
    for options in ({"since": DAYS[2]}, {"since_entry": 4}):
        report = audit(Corpus(corpus.store), **options)  # type: ignore[arg-type]
        assert [fault.what for fault in report.faults] == [expected], whats(report)


def test_an_audit_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    settings = load_settings(store=str(tmp_path / "store"), cache_dir=tmp_path / "cache")
    corpus = Corpus.open(settings)
    hotkey = VALIDATOR.ss58_address

    def add(place: int) -> None:
        commit(corpus, small(place, created_at=made_on(DAYS[place]), validator=hotkey), VALIDATOR)
        seal(corpus, DAYS[place], early=True, signer=VALIDATOR, trust=Trust(frozenset({hotkey})))

    def days(**options: Any) -> int:
        report = audit_onward(settings, deep=False, hotkeys=[hotkey], **options)
        assert report.holds, whats(report)
        return report.days

    add(0)
    add(1)
    assert [days(), days(), days(whole=True), days(sample=0.5)] == [2, 0, 2, 2]
    add(2)
    assert [days(), days()] == [1, 0]
    path = progress_file(settings, Trust(frozenset({hotkey})), sample=1.0, deep=False)
    kept = path.read_bytes()
    # An audit with a fault stays where it was, so that the next one reads the damaged day again.
    add(3)
    newest = corpus.newest()
    assert newest is not None
    damaged = newest.file("perturbed")[0].key
    data = corpus.store.get(damaged)
    corpus.store.put(damaged, data[:-1] + b"x")
    for _ in range(2):
        assert {fault.where for fault in audit_onward(settings, deep=False, hotkeys=[hotkey]).faults} == {damaged}
    assert path.read_bytes() == kept
    corpus.store.put(damaged, data)
    assert days() == 1
    # Whoever rewrites what was audited is found, and everything is read again.
    path.write_bytes(canonical_json({"entries": 4, "root": "0" * 64}))
    report = audit_onward(settings, deep=False, hotkeys=[hotkey])
    assert report.days == 4
    assert [fault.where for fault in report.faults] == [LOG]
    assert f"its first 4 entries had the root {'0' * 64} when they were audited, now: {report.root}" in whats(report)
    for text in (b"{}", b"\xff"):
        path.write_bytes(text)
        assert days() == 4


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
