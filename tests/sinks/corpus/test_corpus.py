"""Other readers on the files of a corpus: WebDataset, datasets and DuckDB."""

from pathlib import Path

import pytest

from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from tests.support.small_corpora import make_clean_corpora


@pytest.fixture(scope="module")
def clean_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bittensor.keyfiles import Keypair

    return make_clean_corpora(tmp_path_factory.mktemp("clean"), Keypair.create_from_uri("//PerturbValidator"))


def test_webdataset_and_datasets_read_rounds_and_sealed_days(clean_corpora: Path) -> None:
    import datasets
    import webdataset

    datasets.disable_progress_bars()
    for state in ("rounds", "sealed"):
        shards = sorted(str(path) for path in (clean_corpora / state).rglob("perturbed*.tar"))
        found = list(
            webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "perturbed.png")
        )
        assert len(found) == 6
        assert found[0][1].size == (32, 32)
        tables = sorted(str(path) for path in (clean_corpora / state).rglob("metadata*.parquet"))
        loaded = datasets.load_dataset("parquet", data_files=tables, split="train", streaming=True)
        rows = {row["record_id"]: row for row in loaded}
        assert len(rows) == 8
        assert {key for key, _ in found} == {key for key, row in rows.items() if row["outcome"] == "accepted"}
        images = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
        assert {row["__key__"].rpartition("/")[2] for row in images} == {key for key, _ in found}


def test_duckdb_sees_one_view(clean_corpora: Path) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.register("records", Corpus(open_store(str(clean_corpora / "sealed"))).dataset())
    query = "select count(*) from records where outcome = 'accepted' and ssim > 0.5"
    assert connection.execute(query).fetchall() == [(6,)]
