"""Bytes that somebody put where a round belongs: they keep no day from being sealed, and pay nobody, once or twice."""

import io
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perturb.schemas.record import Row
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.formats.parquet import rows_table, table_writer
from perturb.tasks.weights.own_records import OwnHistory
from tests.support.forgeries import OURS, honest
from tests.support.small_corpora import TODAY, seal

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

    sealed = seal(corpus, NEXT, signer=OURS, trust=TRUST)
    assert set(corpus.claims(sealed.manifest)) == {ours.round_id}
    assert [why.startswith(told) for why in sealed.left] == [True], sealed.left


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
