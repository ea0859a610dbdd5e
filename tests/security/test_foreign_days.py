"""What somebody put where manifests and entries of the log belong: it hides no round, forgets no day, stops no step."""

import io
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.settings import load_settings
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import rows_of, write_day_table
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import day_entry
from perturb.sinks.log.entry import NewEntry, log_key, next_record
from perturb.sinks.log.log import Log
from perturb.sinks.log.tree import appended, root_of_peaks
from perturb.sinks.stores.base import ObjectCorrupt
from perturb.sinks.targets.registry import Registry
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.prove import prove
from perturb.tasks.export.export import export
from perturb.tasks.harden.pairs import read_photographs
from perturb.tasks.monitor.status import read_status
from perturb.tasks.tiers.tier_file import load_tiers
from perturb.tasks.weights.own_records import OwnHistory
from tests.support.commands import ROOT
from tests.support.forgeries import OURS, honest
from tests.support.small_corpora import LATER, NO_GRACE, TODAY, commit, seal, small, whats

TRUST = Trust(frozenset({OURS.ss58_address}))
DAYS = [TODAY + timedelta(days=number) for number in range(3)]
NEXT = DAYS[-1] + timedelta(days=1)


def of_ours(folder: Path) -> Corpus:
    """Three sealed days of ours and a live round."""
    corpus = honest(folder)
    for number, day in enumerate(DAYS[1:]):
        seal(corpus, day, signer=OURS, trust=TRUST, early=True)
        made = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(days=1)
        commit(corpus, small(10 + number, validator=OURS.ss58_address, created_at=made), OURS)
    return Corpus(corpus.store)


def seen(store: Any, folder: Path) -> dict[str, object]:
    """What the steps of a schedule take from a corpus."""
    history = OwnHistory(Corpus(store), TRUST, cache=folder / "kept")
    status = read_status(Corpus(store), load_settings(tiers=ROOT / "tiers.toml"), now=LATER, trust=TRUST)
    planned = export(
        Corpus(store), load_tiers(ROOT / "tiers.toml")["enterprise"], today=NEXT, dry_run=True, trust=TRUST
    )
    return {
        "state": history.state,
        "live": history.live.num_rows,
        "rounds": Corpus(store).live_rounds(TRUST),
        "sealed": (status.sealed_days, status.sealed_records, status.last_sealed, status.live_rounds),
        "added": planned.added,
    }


def unsigned(corpus: Corpus, of: date, **changes: object) -> bytes:
    manifest = corpus.manifest(of)
    assert manifest is not None
    return manifest.model_copy(update={"signer": None, "signature": None, **changes}).to_json()


def claims_the_live_rounds(corpus: Corpus) -> bytes:
    manifest, folder = corpus.manifest(DAYS[1]), keys.attempt_folder(DAYS[1], "e" * 16)
    assert manifest is not None
    rows = [
        {"date": ref.day, "round_id": ref.round_id, "commit_sha256": "0" * 64, "merkle_root": "0" * 64, "records": 4}
        for ref in corpus.live_rounds()
    ]
    table = write_day_table(corpus.store, folder, "claims", rows_of(rows, "claims"), day=DAYS[1])
    files = (*(entry for entry in manifest.files if entry.kind != "claims"), table)
    return unsigned(corpus, DAYS[1], attempt="e" * 16, files=files)


@pytest.mark.parametrize(
    "forge",
    [
        lambda corpus: unsigned(corpus, DAYS[1], previous_day=None),
        claims_the_live_rounds,
        lambda corpus: corpus.manifest(DAYS[0]).to_json(),
        lambda corpus: b"{}",
    ],
)
def test_a_manifest_that_somebody_replaced_is_not_believed(tmp_path: Path, forge: Callable[[Corpus], bytes]) -> None:
    corpus = of_ours(tmp_path / "corpus")
    before = seen(corpus.store, tmp_path)
    assert (len(before["rounds"]), before["live"]) == (1, 4)  # type: ignore[arg-type]
    corpus.store.put(keys.manifest_key(DAYS[1]), forge(corpus))
    assert seen(corpus.store, tmp_path) == before
    for all_days in (False, True):
        garbage = collect_garbage(
            Corpus(corpus.store), grace=NO_GRACE, all_days=all_days, dry_run=True, trust=TRUST, now=LATER
        )
        assert {entry.key.split("/")[2] for entry in garbage.orphans} <= {"e" * 16}
    assert seal(Corpus(corpus.store), NEXT, signer=OURS, trust=TRUST, early=True).manifest.rounds == 1


@pytest.mark.parametrize(
    "forge",
    [
        lambda corpus: unsigned(corpus, DAYS[-1], day=NEXT),
        lambda corpus: corpus.manifest(DAYS[-1]).to_json(),
        lambda corpus: b"{}",
    ],
)
def test_only_the_log_says_that_a_day_is_sealed(tmp_path: Path, forge: Callable[[Corpus], bytes]) -> None:
    corpus = of_ours(tmp_path / "corpus")
    before = seen(corpus.store, tmp_path)
    for day in (NEXT, date(2099, 1, 1), date.max):
        corpus.store.put(keys.manifest_key(day), forge(corpus))
    assert seen(corpus.store, tmp_path) == before
    made = datetime(NEXT.year, NEXT.month, NEXT.day, 13, tzinfo=UTC)
    assert commit(Corpus(corpus.store), small(20, validator=OURS.ss58_address, created_at=made), OURS).day == NEXT
    sealed = seal(Corpus(corpus.store), NEXT, signer=OURS, trust=TRUST, early=True)
    assert (sealed.already, sealed.manifest.rounds, sealed.manifest.signer) == (False, 2, OURS.ss58_address)
    again = seal(Corpus(corpus.store), NEXT, signer=OURS, trust=TRUST, early=True)
    assert (again.already, again.manifest) == (True, sealed.manifest)
    for day in (date(2099, 1, 1), date.max):
        corpus.store.delete(keys.manifest_key(day))
    assert audit(Corpus(corpus.store), trust=TRUST).holds, whats(audit(Corpus(corpus.store), trust=TRUST))


def a_day(corpus: Corpus) -> None:
    manifest = Manifest.model_validate_json(unsigned(corpus, DAYS[-1], day=NEXT, previous_day=None))
    corpus.store.put(keys.manifest_key(NEXT), manifest.to_json())
    Log(corpus.store).append(day_entry(manifest), signer=None, at=LATER)


def a_plan_that_names_an_old_day_as_the_newest(corpus: Corpus) -> None:
    last = Log(corpus.store).newest()
    assert last is not None
    record = next_record(last, NewEntry(kind="plan", key="x/plan.json", sha256="0" * 64), None, LATER)
    place = record.entry.sequence
    entry = record.entry.model_copy(update={"newest": {"plan": place, "sealed-day": 0}})
    head = record.head.model_copy(update={"root": root_of_peaks(appended(last.next_peaks, place, entry.leaf))})
    corpus.store.put(log_key(place), record.model_copy(update={"entry": entry, "head": head}).to_json())


@pytest.mark.parametrize(
    "forge",
    [
        a_day,
        a_plan_that_names_an_old_day_as_the_newest,
        lambda corpus: corpus.store.put(log_key(len(DAYS)), b"{}"),
    ],
)
def test_entries_that_somebody_added_to_the_log_are_passed_over_and_named(
    tmp_path: Path, forge: Callable[[Corpus], None]
) -> None:
    corpus = of_ours(tmp_path / "corpus")
    before = seen(corpus.store, tmp_path)
    forge(corpus)
    assert seen(corpus.store, tmp_path) == before
    left: Counter[str] = Counter()
    assert [manifest.day for manifest in Corpus(corpus.store).days_back(TRUST, left=left)] == DAYS[::-1]
    assert [why.startswith(log_key(len(DAYS))) for why in left] == [True]
    status = read_status(Corpus(corpus.store), load_settings(tiers=ROOT / "tiers.toml"), now=LATER, trust=TRUST)
    assert status.foreign_entries == left
    assert log_key(len(DAYS)) in " ".join(finding.what for finding in status.findings)
    for options in ({}, {"since_entry": len(DAYS)}, {"since_entry": 1}, {"since": DAYS[1]}):
        report = audit(Corpus(corpus.store), trust=TRUST, **options)  # type: ignore[arg-type]
        assert [log_key(len(DAYS)) in fault.what for fault in report.faults if fault.where == "log/"] == [True]
        assert report.rounds == 1
    for write in (
        lambda: seal(Corpus(corpus.store), NEXT, signer=OURS, trust=TRUST, early=True),
        lambda: collect_garbage(Corpus(corpus.store), trust=TRUST, dry_run=True),
    ):
        with pytest.raises(CorpusError, match=log_key(len(DAYS))):
            write()


def test_a_log_that_was_cut_makes_no_day_garbage_and_seals_none_again(tmp_path: Path) -> None:
    corpus = of_ours(tmp_path / "corpus")
    corpus.store.delete(log_key(len(DAYS) - 1))
    before = list(corpus.store.entries())
    told = f"signed by {OURS.ss58_address}, but the log has no entry of {DAYS[-1]}: it was cut"
    with pytest.raises(CorpusError, match=told):
        seal(Corpus(corpus.store), DAYS[-1], signer=OURS, trust=TRUST, early=True)
    with pytest.raises(CorpusError, match=told):
        collect_garbage(
            Corpus(corpus.store), grace=NO_GRACE, keep_superseded=NO_GRACE, trust=TRUST, now=LATER.replace(year=2030)
        )
    assert list(corpus.store.entries()) == before


def test_the_status_names_a_day_that_cannot_be_read(tmp_path: Path) -> None:
    corpus = of_ours(tmp_path / "corpus")
    settings = load_settings(tiers=ROOT / "tiers.toml")
    for day, damage in ((DAYS[0], b"PAR1 no table PAR1"), (DAYS[1], None)):
        (entry,) = corpus.manifest(day).file("metadata")  # type: ignore[union-attr]
        if damage is None:
            corpus.store.delete(entry.key)
        else:
            corpus.store.put(entry.key, damage)
    found = read_status(Corpus(corpus.store), settings, now=LATER, trust=TRUST)
    named = [finding.what for finding in found.findings if finding.part == "sealed days"]
    assert [f"the metadata of {day} cannot be read" in what for day, what in zip(DAYS, named, strict=False)] == [
        True
    ] * 2


def test_a_late_day_that_somebody_listed_hides_no_record(tmp_path: Path) -> None:
    corpus = of_ours(tmp_path / "corpus")
    for name in ("2026-99-99", str(NEXT)):
        corpus.store.put(f"sealed/late/date={TODAY}/{name}", b"")
    corpus.store.put(keys.manifest_key(NEXT), b"{}")
    (row, *_), *_ = corpus.rows(corpus.manifest(TODAY))  # type: ignore[arg-type]
    assert prove(Corpus(corpus.store), row["record_id"], trust=TRUST).record_id == row["record_id"]
    faults = audit(Corpus(corpus.store), trust=TRUST, since=DAYS[1]).faults
    assert {fault.where for fault in faults} == {keys.manifest_key(NEXT)}


def test_an_audit_goes_on_where_it_is_not_known_which_rounds_are_live(tmp_path: Path) -> None:
    corpus = of_ours(tmp_path / "corpus")
    corpus.store.put(keys.manifest_key(NEXT), unsigned(corpus, TODAY, day=NEXT, files=()))
    report = audit(Corpus(corpus.store), trust=TRUST)
    assert (report.days, report.rounds) == (len(DAYS) + 1, 1)
    assert {fault.where for fault in report.faults} == {keys.manifest_key(NEXT), keys.ROUNDS}


def test_records_that_were_changed_below_a_signature_train_and_measure_nothing(tmp_path: Path) -> None:
    corpus = of_ours(tmp_path / "corpus")
    registry = Registry(corpus.store)
    assert len(read_photographs(corpus, registry, days=DAYS, size=(32, 32))) == 4
    (entry,) = corpus.manifest(TODAY).file("metadata")  # type: ignore[union-attr]
    table = pq.read_table(pa.BufferReader(corpus.store.get(entry.key)))
    place = table.schema.get_field_index("true_label")
    sink = io.BytesIO()
    pq.write_table(table.set_column(place, "true_label", pa.array([7] * table.num_rows)), sink)
    corpus.store.put(entry.key, sink.getvalue())
    with pytest.raises((CorpusError, ObjectCorrupt), match=entry.key):
        read_photographs(corpus, registry, days=DAYS, size=(32, 32))
