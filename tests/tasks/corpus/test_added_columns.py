"""Columns that a later program adds: this one reads, seals and audits them, and the leaves cover them."""

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import POINTERS, record_schema
from perturb.schemas.settings import SealSettings
from perturb.sinks.corpus import rounds
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.formats.merkle import leaf_hash
from perturb.sinks.formats.parquet import open_table, rows_table
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.seal import seal_day
from tests.support.synthetic import make_round

DAY = date(2026, 1, 31)
NEWER = pa.schema(
    [
        *record_schema(),
        pa.field("mood", pa.string()),
        pa.field("views", pa.list_(pa.struct([pa.field("angle", pa.float64()), pa.field("seen", pa.bool_())]))),
    ]
)
VALUES = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))


@given(st.dictionaries(st.sampled_from(["block", "psnr", "mood", "views"]), VALUES | st.none()), VALUES)
def test_a_leaf_covers_the_columns_that_are_not_null(row: dict[str, Any], value: object) -> None:
    row["record_id"] = "20260131" + "0" * 24
    leaf = leaf_hash(row)
    assert leaf_hash({**row, "later": None}) == leaf
    assert leaf_hash({**row, **dict.fromkeys(POINTERS, "anywhere")}) == leaf
    assert leaf_hash({name: value for name, value in row.items() if value is not None}) == leaf
    assert leaf_hash({**row, "later": value}) != leaf


def commit_newer(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, seed: int, values: list[dict[str, Any]]) -> None:
    """Commit a round as a program would that knows the columns of `NEWER`, each row with one of `values`."""
    made = make_round(seed, miners=3, refused=1, created_at=datetime(2026, 1, 31, 10, seed, tzinfo=UTC))
    draft_of = rounds.RoundDraft

    def draft(**parts: Any) -> rounds.RoundDraft:
        rows = [row | value for row, value in zip(parts["rows"], values, strict=True)]
        return draft_of(**(parts | {"rows": rows}))

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "RoundDraft", draft)
        patch.setattr(rounds, "rows_table", lambda rows: rows_table(rows, NEWER))
        patch.setattr("perturb.sinks.formats.parquet.record_schema", lambda: NEWER)
        parts = (made.challenge, made.responses, made.verdicts, made.scores)
        commit_round(corpus, *parts, netuid=26, block=None, validator_hotkey="5Validator")


def test_rounds_of_a_newer_program_are_sealed_and_audited_with_their_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus(open_store(str(tmp_path)))
    old = make_round(1, miners=2, created_at=datetime(2026, 1, 31, 9, tzinfo=UTC))
    parts = (old.challenge, old.responses, old.verdicts, old.scores)
    commit_round(corpus, *parts, netuid=26, block=None, validator_hotkey="5Validator")
    values = [{"mood": f"m{n}", "views": [{"angle": n / 3, "seen": True}] if n else None} for n in range(4)]
    commit_newer(corpus, monkeypatch, 2, values)
    assert audit(corpus).faults == []

    manifest = seal_day(corpus, DAY, settings=SealSettings(reverify_fraction=0), early=True).manifest
    assert audit(corpus).faults == []
    rows = [row for batch in corpus.rows(manifest) for row in batch]
    assert [row["record_id"] for row in rows] == sorted(row["record_id"] for row in rows)
    assert sorted(row["mood"] for row in rows if row["mood"]) == ["m0", "m1", "m2", "m3"]
    assert sum(row["mood"] is None for row in rows) == 3
    # Readers that ask for records see the columns that they know.
    assert corpus.table().schema.names == record_schema().names

    # A changed value of a column that this program does not know is noticed.
    (entry,) = manifest.file("metadata")
    path = tmp_path / entry.key
    table = pq.read_table(path)
    moods = pa.array(["other" if mood == "m2" else mood for mood in table["mood"].to_pylist()])
    place = table.schema.get_field_index("mood")
    pq.write_table(table.set_column(place, "mood", moods), path)
    assert any("their Merkle root is not the manifest's" in fault.what for fault in audit(corpus).faults)


def test_a_round_whose_column_has_another_type_is_left_to_the_next_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signature tells a time from its text: whoever writes to the store may put the one for the other."""
    corpus = Corpus(open_store(str(tmp_path)))
    for seed in (2, 3):
        commit_newer(corpus, monkeypatch, seed, [{"mood": "2026-01-31T00:00:00.000000Z"}] * 4)
    path = tmp_path / corpus.live_rounds()[1].commit_key
    table = pq.read_table(path)
    times = pa.array([datetime(2026, 1, 31, tzinfo=UTC)] * table.num_rows, pa.timestamp("us", tz="UTC"))
    place = table.schema.get_field_index("mood")
    path.chmod(0o644)
    pq.write_table(table.set_column(place, "mood", times), path)
    settings = SealSettings(reverify_fraction=0)
    sealed = seal_day(corpus, DAY, settings=settings, early=True)
    told = "its column mood is of type timestamp[us, tz=UTC], in rounds before it of type string"
    assert (sealed.manifest.rounds, sealed.left) == (1, {told: 1})
    later = seal_day(corpus, DAY + timedelta(days=1), settings=settings, early=True)
    assert (later.manifest.rounds, later.left) == (1, {})
    assert audit(corpus).faults == []


@pytest.mark.parametrize(
    "field", [pa.field("raw", pa.binary()), pa.field("must", pa.string(), nullable=False), pa.field("psnr", pa.int64())]
)
def test_other_added_columns_are_refused_by_name(field: pa.Field) -> None:
    known = pa.schema([one for one in record_schema() if one.name != field.name])
    table = pa.schema([*known, field], {b"perturb": b'{"format":2}'}).empty_table()
    sink = io.BytesIO()
    pq.write_table(table, sink)
    with pytest.raises(CorpusError, match=rf"x has column {field.name} of type .* which records do not have"):
        open_table(pa.BufferReader(sink.getvalue()), "x")
