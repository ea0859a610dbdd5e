"""The log on real stores: several writers at once, hints that lie, and a log that somebody changed."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from perturb.schemas.errors import CorpusError
from perturb.schemas.trust import Trust
from perturb.sinks.formats.merkle import inclusion_path, merkle_root, root_from_path
from perturb.sinks.log import entry as entry_module
from perturb.sinks.log.entry import NewEntry, Totals, log_key, tile_key
from perturb.sinks.log.log import Log
from perturb.sinks.log.tree import consistency_path, is_consistent
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import development_keypair
from tests.support.corpora import VALIDATOR

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
STRANGER = development_keypair("//Stranger")
TRUST = Trust(frozenset({VALIDATOR.ss58_address}))


def new(number: int, kind: str = "plan") -> NewEntry:
    return NewEntry(
        kind=kind,  # type: ignore[arg-type]
        key=f"plans/{number}.json",
        sha256=f"{number:064x}",
        detail={"number": number},
        adds=Totals(records=number),
    )


def filled(store: Store, count: int) -> Log:
    log = Log(store, trust=TRUST)
    last = None
    for number in range(count):
        last = log.try_append(last, new(number), signer=VALIDATOR, at=AT)
        assert last is not None
    return log


def test_writers_at_once_enter_everything_once_in_one_order(make_store: Callable[[], Store]) -> None:
    def write(writer: int) -> list[int]:
        log = Log(make_store(), trust=TRUST)
        numbers = range(writer * 10, writer * 10 + 6)
        return [log.append(new(number), signer=VALIDATOR, at=AT).entry.sequence for number in numbers]

    with ThreadPoolExecutor(3) as pool:
        places = [place for written in pool.map(write, range(3)) for place in written]
    assert sorted(places) == list(range(18))
    log = Log(make_store(), trust=TRUST)
    records = list(log.records())
    assert sorted(record.entry.detail["number"] for record in records) == sorted(
        writer * 10 + number for writer in range(3) for number in range(6)
    )
    newest = log.newest()
    assert newest == records[-1]
    assert newest.entry.totals.records == sum(int(record.entry.detail["number"]) for record in records)
    assert merkle_root([record.entry.leaf for record in records]) == newest.head.root
    # Again, as by a process that died after its entry was created.
    assert log.append(new(int(newest.entry.detail["number"])), signer=VALIDATOR, at=AT) == newest


def test_a_writer_that_was_killed_appends_again_without_a_second_entry(tmp_path: object) -> None:
    log = Log(open_store(str(tmp_path)), trust=TRUST)
    for number, kind in enumerate(("plan", "certificate", "plan", "sealed-day", "plan", "certificate", "certificate")):
        log.append(new(number, kind), signer=VALIDATOR, at=AT)
    places = [record.entry.sequence for record in log.back(log.newest(), "plan")]
    assert places == [4, 2, 0]
    assert not list(log.back(log.newest(), "promotion"))
    for place in (0, 2, 4):
        assert log.append(new(place, "plan"), signer=VALIDATOR, at=AT).entry.sequence == place
    assert log.append(new(2, "certificate"), signer=VALIDATOR, at=AT).entry.sequence == 7, "of another kind"


def test_every_head_proves_every_earlier_one(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("entry", "log"):
        monkeypatch.setattr(f"perturb.sinks.log.{module}.TILE", 4)
    log = filled(open_store(str(tmp_path)), 19)
    records = list(log.records())
    for newer in records:
        leaves = log.leaves(newer)
        for older in records[: newer.head.size]:
            path = consistency_path(leaves, older.head.size)
            assert is_consistent(older.head.size, older.head.root, newer.head.size, newer.head.root, path)
            place = older.entry.sequence
            proof = inclusion_path(leaves, place)
            assert root_from_path(older.entry.leaf, place, newer.head.size, proof) == newer.head.root


@pytest.mark.parametrize("hint", [None, b"", b"[]", b'{"sequence":0}', b'{"sequence":99}', b'{"sequence":-1}', b"\xff"])
def test_a_hint_that_lies_costs_requests_only(tmp_path: object, hint: bytes | None) -> None:
    store = open_store(str(tmp_path))
    log = filled(store, 7)
    if hint is None:
        store.delete("log/newest.json")
    else:
        store.put("log/newest.json", hint)
    newest = log.newest()
    assert newest is not None
    assert newest.entry.sequence == 6
    assert Log(open_store(f"{tmp_path}/empty")).newest() is None


def rewritten(store: Store, place: int, change: Callable[[dict[str, Any]], None]) -> None:
    fields = json.loads(store.get(log_key(place)))
    change(fields)
    store.put(log_key(place), json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def _other_detail(fields: dict[str, Any]) -> None:
    fields["entry"]["detail"]["number"] = 77


def _other_peak(fields: dict[str, Any]) -> None:
    fields["peaks"][0] = "00" * 32


def _other_tail(fields: dict[str, Any]) -> None:
    fields["tail"] = fields["tail"][:-1]


def _other_signature(fields: dict[str, Any]) -> None:
    fields["head"]["signature"] = "00" * 64


def _unsigned(fields: dict[str, Any]) -> None:
    fields["head"]["signature"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_detail, "the peaks do not lead to the root"),
        (_other_peak, "the peaks do not lead to the root"),
        (_other_tail, "the tail does not lead to the peaks"),
        (_other_signature, "the signature is not"),
        (_unsigned, "a signer without a signature"),
    ],
)
def test_a_changed_entry_is_refused(tmp_path: object, change: Callable[[dict[str, Any]], None], message: str) -> None:
    store = open_store(str(tmp_path))
    log = filled(store, 6)
    rewritten(store, 5, change)
    with pytest.raises(CorpusError, match=message):
        log.newest()
    with pytest.raises(CorpusError, match=message):
        log.append(new(9), signer=VALIDATOR, at=AT)


def test_a_missing_a_foreign_a_doubled_and_an_exchanged_entry_are_named(tmp_path: object) -> None:
    store = open_store(f"{tmp_path}/a")
    log = filled(store, 6)
    third, fourth = store.get(log_key(3)), store.get(log_key(4))
    store.put(log_key(3), fourth)
    with pytest.raises(CorpusError, match=r"log/00000003.json holds entry 4; restore"):
        list(log.records())
    store.delete(log_key(3))
    with pytest.raises(CorpusError, match=r"log/00000003.json is missing from the log"):
        list(log.records())
    # Another history, signed by the same hotkey.
    fork = Log(open_store(f"{tmp_path}/b"), trust=TRUST)
    for number in range(5):
        fork.append(new(number + (number > 1)), signer=VALIDATOR, at=AT)
    store.put(log_key(3), third)
    store.put(log_key(4), fork.record(4).to_json())
    with pytest.raises(CorpusError, match=r"log/00000004.json does not follow from the entry before it"):
        list(log.records())
    store.put(log_key(4), fourth)
    assert len(list(log.records(2, 5))) == 3
    Log(store).append(new(9), signer=STRANGER, at=AT)
    with pytest.raises(CorpusError, match=r"log/00000006.json \(plan plans/9.json\) does not count: it is signed by"):
        log.append(new(10), signer=VALIDATOR, at=AT)


def test_damaged_tiles_are_named(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("entry", "log"):
        monkeypatch.setattr(f"perturb.sinks.log.{module}.TILE", 4)
    store = open_store(str(tmp_path))
    log = filled(store, 11)
    newest = log.newest()
    assert newest is not None
    store.put(tile_key(1), bytes(128))
    with pytest.raises(CorpusError, match=r"the tiles below log/tiles/ do not lead to the root of log/00000010.json"):
        log.leaves(newest)
    store.delete(tile_key(1))
    with pytest.raises(CorpusError, match=r"log/tiles/00000001 is missing"):
        log.leaves(newest)
    assert entry_module.TILE == 4
