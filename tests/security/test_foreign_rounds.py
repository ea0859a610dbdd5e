"""Bytes that somebody put where a round belongs: they keep no day from being sealed, and pay nobody, once or twice."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturb.schemas.outcome import Outcome
from perturb.schemas.record import Row, record_schema
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.own_round import read_own_round, read_own_rounds
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.formats.leaves import MANY
from perturb.sinks.formats.parquet import rows_table, table_writer
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.weights.own_records import OwnHistory
from tests.support.forgeries import OURS, honest
from tests.support.small_corpora import NO_GRACE, TODAY, commit, seal, small

TRUST = Trust(frozenset({OURS.ss58_address}))
EARLIER, NEXT = date(2026, 1, 30), date(2026, 2, 1)
UNKNOWN = "it cannot be read, so that no signature is known"


def paid(corpus: Corpus, folder: Path) -> tuple[pa.Table, Counter[str]]:
    """The records that weights count, of the sealed day and of live rounds, and what was left out."""
    history = OwnHistory(corpus, TRUST, cache=folder / "kept")
    return pa.concat_tables([history.day(TODAY)[0], history.live]), history.left


def commit_object(rows: list[Row], statement: dict[str, Any]) -> bytes:
    """A round's metadata with any rows below any statement."""
    sink = io.BytesIO()
    with table_writer(sink, statement=statement, brief=True) as writer:
        writer.add(rows_table(rows))
    return sink.getvalue()


def moved(rows: list[Row], ref: RoundRef, **changes: object) -> list[Row]:
    """The rows with pointers into the folder of `ref`."""
    folder = keys.round_folder(ref.day, ref.round_id)
    shards = {
        row["record_id"]: {
            f"{kind}_shard": f"{folder}{kind}.tar"
            for kind in ("original", "perturbed")
            if row[f"{kind}_shard"] is not None
        }
        for row in rows
    }
    return [row | shards[row["record_id"]] | changes for row in rows]


def garbage(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    return RoundRef(EARLIER, "f" * 32), b"PAR1 no table PAR1"


def other_columns(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    metadata = pq.read_schema(pa.BufferReader(corpus.store.get(ours.commit_key))).metadata
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": ["b"]}).replace_schema_metadata(metadata), sink)
    return RoundRef(EARLIER, ours.round_id), sink.getvalue()


def signed_by_no_key(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    stored, ref = corpus.read_round(ours), RoundRef(EARLIER, "f" * 32)
    statement = stored.statement.model_dump(mode="json") | {"round_id": ref.round_id, "signature": "ab" * 64}
    return ref, commit_object(moved(stored.rows, ref, round_id=ref.round_id), statement)


def other_rows(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    stored, ref = corpus.read_round(ours), RoundRef(EARLIER, ours.round_id)
    return ref, commit_object(moved(stored.rows, ref, score=1.0), stored.statement.model_dump(mode="json"))


def without_tars(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    stored, ref = corpus.read_round(ours), RoundRef(EARLIER, ours.round_id)
    return ref, commit_object(moved(stored.rows, ref), stored.statement.model_dump(mode="json"))


def with_column(name: str, values: pa.Array) -> Callable[[Corpus, RoundRef], tuple[RoundRef, bytes]]:
    """Return what puts a copy of our round elsewhere, with one more column or another one in its place."""

    def forge(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
        table = pq.read_table(pa.BufferReader(without_tars(corpus, ours)[1]))
        place = table.schema.get_field_index(name)
        column = pa.concat_arrays([values] * table.num_rows)
        sink = io.BytesIO()
        if place < 0 or name == "validator_hotkey":
            pq.write_table(table.append_column(name, column), sink)
        else:
            pq.write_table(table.set_column(place, name, column), sink)
        return RoundRef(EARLIER, ours.round_id), sink.getvalue()

    return forge


NOT_UNICODE = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xff")]
)
FAR_AWAY = pa.array([2**62], pa.timestamp("us", "UTC"))
TWO_OF_ONE_NAME = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])


def millions_of_rows(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    """A few bytes that are a hundred megabytes in memory, below our signed statement."""
    metadata = pq.read_schema(pa.BufferReader(corpus.store.get(ours.commit_key))).metadata
    schema, rows = record_schema().with_metadata(metadata), 200_000
    sink = io.BytesIO()
    pq.write_table(pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema), sink)
    assert len(sink.getvalue()) < 500_000
    return RoundRef(EARLIER, ours.round_id), sink.getvalue()


def pointers_of_another_row(corpus: Corpus, ours: RoundRef) -> tuple[RoundRef, bytes]:
    """An accepted row's pointer on the refused one. What a pointer names is not signed."""
    stored, ref = corpus.read_round(ours), RoundRef(EARLIER, ours.round_id)
    rows = moved(stored.rows, ref)
    accepted = next(row for row in rows if row["outcome"] == Outcome.ACCEPTED)
    refused = next(row for row in rows if row["outcome"] != Outcome.ACCEPTED)
    for name in ("perturbed_shard", "perturbed_offset", "perturbed_length"):
        accepted[name], refused[name] = refused[name], accepted[name]
    return ref, commit_object(rows, stored.statement.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (garbage, UNKNOWN),
        (other_columns, UNKNOWN),
        (signed_by_no_key, f"the signature is not {OURS.ss58_address}'s"),
        (other_rows, "the rows differ from those that were committed"),
        (without_tars, "it is damaged: "),
        (with_column("validator_hotkey", pa.array([OURS.ss58_address])), UNKNOWN),
        (with_column("added", NOT_UNICODE), UNKNOWN),
        (with_column("added", TWO_OF_ONE_NAME), UNKNOWN),
        (with_column("original_shard", NOT_UNICODE), UNKNOWN),
        (with_column("created_at", FAR_AWAY), UNKNOWN),
        (with_column("record_id", pa.nulls(1, pa.string())), UNKNOWN),
        (millions_of_rows, UNKNOWN),
    ],
)
def test_a_foreign_round_is_left_out_and_named(
    tmp_path: Path, forge: Callable[[Corpus, RoundRef], tuple[RoundRef, bytes]], told: str
) -> None:
    corpus = honest(tmp_path / "corpus")
    (ours,) = corpus.live_rounds()
    foreign, data = forge(corpus, ours)
    corpus.store.put(foreign.commit_key, data)

    records, left = paid(corpus, tmp_path)
    assert records.num_rows == 12
    assert max(records.column("score").to_pylist()) < 1
    assert sum(left.values()) == 1
    report = audit(Corpus(corpus.store), trust=TRUST)
    assert (report.rounds, report.days, report.holds) == (2, 1, False)

    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert set(corpus.claims(sealed.manifest)) == {ours.round_id}
    assert [why.startswith(told) for why in sealed.left] == [True], sealed.left


def test_pointers_that_are_not_those_of_accepted_rows_are_left_out(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    (ours,) = corpus.live_rounds()
    foreign, data = pointers_of_another_row(corpus, ours)
    corpus.store.put(foreign.commit_key, data)
    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert set(corpus.claims(sealed.manifest)) == {ours.round_id}
    assert list(sealed.left) == ["its rows do not point to an image where they are accepted, and there only"]


def put_again(corpus: Corpus, ref: RoundRef, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a round's table with the same statement."""
    sink = io.BytesIO()
    pq.write_table(change(pq.read_table(pa.BufferReader(corpus.store.get(ref.commit_key)))), sink)
    corpus.store.put(ref.commit_key, sink.getvalue())


def nulls(type: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.append_column("added", pa.nulls(table.num_rows, type))


def not_null(table: pa.Table) -> pa.Table:
    fields = [field.with_nullable(field.name != "round_id") for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


@pytest.mark.parametrize("change", [nulls(pa.string()), not_null])
def test_what_no_signature_covers_keeps_no_round_from_being_sealed(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    corpus = honest(tmp_path / "corpus")
    commit(corpus, small(4, validator=OURS.ss58_address), OURS)
    one, other = corpus.live_rounds()
    put_again(corpus, one, change)
    put_again(corpus, other, nulls(pa.float64()))
    records, left = paid(corpus, tmp_path)
    assert (records.num_rows, left) == (16, {})
    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert (sealed.manifest.rounds, sealed.left) == (2, {})
    assert "added" not in corpus.metadata(sealed.manifest).schema.names
    assert audit(corpus, trust=TRUST).holds


def test_an_old_round_in_a_new_partition_pays_and_is_sealed_once(tmp_path: Path) -> None:
    """Which day a round belongs to is not signed, and the rounds of old days are removed."""
    corpus = honest(tmp_path / "corpus")
    manifest = corpus.manifest(TODAY)
    assert manifest is not None
    old = RoundRef(TODAY, min(corpus.claims(manifest)))
    kept = {entry.key: corpus.store.get(entry.key) for entry in corpus.store.entries(keys.round_folder(*astuple(old)))}
    stored, copy = corpus.read_round(old), RoundRef(NEXT, old.round_id)
    collect_garbage(corpus, grace=NO_GRACE, keep_superseded=NO_GRACE, trust=TRUST)
    assert corpus.round_days() == [NEXT], "nothing is left that tells that it was sealed, but the claims of its day"
    for key, data in kept.items():
        corpus.store.put(keys.round_folder(*astuple(copy)) + key.rpartition("/")[2], data)
    statement = stored.statement.model_dump(mode="json")
    corpus.store.put(copy.commit_key, commit_object(moved(stored.rows, copy), statement))
    records, left = paid(corpus, tmp_path)
    assert (records.num_rows, left) == (12, {f"round: it is a copy: {TODAY} has it": 1})
    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert (sealed.manifest.rounds, sealed.left) == (1, {f"it is a copy: {TODAY} has it": 1})


@pytest.mark.parametrize("column", ["perturbed_shard", "original_shard", "body_sha256", "miner_signature", "height"])
def test_an_audit_goes_on_at_a_foreign_day_that_lacks_a_column(tmp_path: Path, column: str) -> None:
    corpus = honest(tmp_path / "corpus")
    manifest = corpus.manifest(TODAY)
    assert manifest is not None
    (entry,) = manifest.file("metadata")
    sink = io.BytesIO()
    pq.write_table(pq.read_table(pa.BufferReader(corpus.store.get(entry.key))).drop_columns([column]), sink)
    data = sink.getvalue()
    corpus.store.put(entry.key, data)
    stated = entry.model_copy(update={"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    files = tuple(stated if file == entry else file for file in manifest.files)
    forged = manifest.model_copy(update={"files": files, "signer": None, "signature": None})
    corpus.store.put(keys.manifest_key(TODAY), forged.to_json())
    report = audit(Corpus(corpus.store), trust=TRUST)
    assert (report.days, report.rounds) == (1, 1)
    assert f"it is signed by no one, not by {OURS.ss58_address}" in [fault.what for fault in report.faults]


def test_a_whole_copy_of_a_round_pays_once(tmp_path: Path) -> None:
    corpus = honest(tmp_path / "corpus")
    (ours,) = corpus.live_rounds()
    copy, data = without_tars(corpus, ours)
    for entry in list(corpus.store.entries(keys.round_folder(ours.day, ours.round_id))):
        name = entry.key.rpartition("/")[2]
        corpus.store.put(keys.round_folder(copy.day, copy.round_id) + name, corpus.store.get(entry.key))
    corpus.store.put(copy.commit_key, data)
    records, left = paid(corpus, tmp_path)
    assert (records.num_rows, left) == (12, {"round: it is in two partitions": 1})
    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert (sealed.manifest.rounds, sealed.left) == (1, {"it is in two partitions": 1})


@pytest.mark.parametrize("score", [0.5, float("nan")])
def test_rounds_that_are_read_together_are_judged_each_by_itself(tmp_path: Path, score: float) -> None:
    """One of many has a row that was not signed, or one that has no leaf at all."""
    corpus = Corpus(open_store(str(tmp_path)))
    for seed in range(MANY // 2):
        commit(corpus, small(seed), OURS)
    refs = corpus.live_rounds()
    assert sum(corpus.read_round(ref).table.num_rows for ref in refs) > MANY
    alone = [read_own_round(corpus, ref, TRUST) for ref in refs]
    assert all(isinstance(one, StoredRound) for one in alone)

    def forged(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("score")
        return table.set_column(place, table.schema.field(place), pa.array([score] * table.num_rows))

    put_again(corpus, refs[5], forged)
    together = read_own_rounds(corpus, refs, TRUST)
    for place, (one, other) in enumerate(zip(alone, together, strict=True)):
        if place == 5:
            assert other == read_own_round(corpus, refs[5], TRUST)
            assert isinstance(other, str)
        else:
            assert isinstance(one, StoredRound)
            assert isinstance(other, StoredRound)
            assert (one.leaves, one.table.equals(other.table)) == (other.leaves, True)
