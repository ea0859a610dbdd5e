"""Exports loaded as subscribers load them: `datasets`, `webdataset`, DuckDB, Polars, pyarrow, mlcroissant."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from datetime import date, datetime
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image

from perturb.models.labels import imagenet_label, imagenet_labels
from perturb.schemas.image import pixel_identity
from perturb.schemas.imagenet import class_names
from perturb.schemas.record import record_schema
from perturb.schemas.tier import Tier
from perturb.sinks.dataset.card import Contents, make_card
from perturb.sinks.dataset.day_index import ExportFile, Statistics
from perturb.sinks.dataset.photo_rows import photo_groups
from perturb.sinks.dataset.writers import row_groups
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export
from perturb.tasks.export.plan import plan_day
from perturb.tasks.export.readback import read_back
from perturb.tasks.export.share import share
from perturb.tasks.tiers.identifiers import pair_id
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import Made, make_corpus, plain_draw

TIERS = ("sample", "research", "professional", "enterprise")
DAYS = [date(2026, 1, 1), date(2026, 1, 2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A corpus whose first rows lack what later ones have, exported in every shipped tier."""

    def changes(day: date, number: int, miner: int) -> dict[str, Any]:
        # The day's first answers have no score of the judge's and no transfer: nulls before floats and lists.
        return {"semantic_score": None, "transfer": None} if number < 3 else {"semantic_score": -1.5}

    made = make_corpus(
        open_store(str(tmp_path_factory.mktemp("consumers"))), days=DAYS, rounds=30, miners=5, changes=changes
    )
    for tier in load_tiers(Path("tiers.toml")).values():
        with pytest.MonkeyPatch.context() as patch:
            if tier.name != "sample":
                patch.setattr("perturb.tasks.export.publish_card.draw_plots", plain_draw)
            export(made.corpus, tier, today=date(2027, 1, 1))
    return made


def folder(made: Made, tier: str, root: str) -> Path:
    return Path(made.corpus.store.url) / "exports" / tier / root


def load(path: Path, cache: Path, **options: Any) -> Any:
    return datasets.load_dataset(str(path), cache_dir=str(cache), **options)


@pytest.mark.parametrize(
    ("tier", "root"), [*product(TIERS, ["parquet", "wds"]), ("research", "by_photo"), ("professional", "by_photo")]
)
def test_datasets_reads_each_root_in_both_modes(made: Made, tmp_path: Path, tier: str, root: str) -> None:
    kept = load(folder(made, tier, root), tmp_path)
    streamed = load(folder(made, tier, root), tmp_path, streaming=True)
    assert set(kept) == set(streamed)
    assert "train" in kept
    for split, rows in kept.items():
        found = list(streamed[split])
        assert len(found) == rows.num_rows > 0
        assert streamed[split].features == rows.features
        assert _comparable(found[-1]) == _comparable(rows[-1])
        assert _comparable(found[0]) == _comparable(rows[0])


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items() if name != "__url__"}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return pixel_identity(np.asarray(value)) if isinstance(value, Image.Image) else value


def test_labels_have_names_however_the_pairs_are_loaded(made: Made, tmp_path: Path) -> None:
    """From the card, in a view, and from the files alone, as from a list of links: both modes."""
    path = folder(made, "research", "parquet")
    links = json.loads(share(made.corpus.store, "research").to_json())["data_files"]["parquet"]
    for streaming in (False, True):
        loaded = [
            load(path, tmp_path / "card", streaming=streaming),
            load(path, tmp_path / "view", name="minimal", streaming=streaming),
            datasets.load_dataset("parquet", data_files=links, cache_dir=str(tmp_path / "links"), streaming=streaming),
        ]
        for found in loaded:
            for column in ("true_label", "adversarial_label"):
                labels = found["train"].features[column]
                assert isinstance(labels, datasets.ClassLabel)
                assert labels.names == list(class_names())
                row = next(iter(found["train"]))
                assert labels.int2str(row[column]) == imagenet_label(row[column]).name


def test_names_of_classes_are_those_of_records_and_no_two_are_equal() -> None:
    shared = {
        134: "crane (n02012849)",
        517: "crane (n03126707)",
        638: "maillot (n03710637)",
        639: "maillot (n03710721)",
    }
    assert len(set(class_names())) == 1000
    assert list(class_names()) == [shared.get(label.index, label.name) for label in imagenet_labels()]


def test_a_card_is_short_and_does_not_grow_with_days_and_views(made: Made) -> None:
    for tier in ("sample", "research", "professional"):
        for root in ("parquet", "wds", *(["by_photo"] if tier != "sample" else [])):
            text = (folder(made, tier, root) / "README.md").read_text()
            assert len(text.splitlines()) < 200, (tier, root)
    research = load_tiers(Path("tiers.toml"))["research"]
    files = tuple(
        ExportFile(
            key=f"parquet/data/train/{n}.parquet", root="parquet", split="train", rows=1, size=1, sha256="0" * 64
        )
        for n in range(400)
    )
    statistics = Statistics(splits={"train": 400}, views={name: {"train": 1} for name in research.views})
    card = make_card(Contents(research, tuple(DAYS), files, statistics), "parquet").decode()
    assert len(card.splitlines()) < 200
    front = card.split("---\n")[1]
    assert front.count("great white shark") == 1
    read = yaml.safe_load(front)
    assert len(read["configs"]) == len(read["dataset_info"]) == 1 + len(research.views)
    assert all(len(config["data_files"][0]["path"]) == 400 for config in read["configs"])
    assert all(info["features"] == read["dataset_info"][0]["features"] for info in read["dataset_info"])


def test_rows_are_those_of_the_corpus_value_by_value(made: Made, tmp_path: Path) -> None:
    """In the enterprise tier every column of every accepted row arrives as it was, in both roots, beside its images."""
    tier = load_tiers(Path("tiers.toml"))["enterprise"]
    table = pa.Table.from_pylist(made.rows, schema=record_schema())
    rows = {row["record_id"]: row for row in table.to_pylist() if row["outcome"] == "accepted"}
    parquet = datasets.concatenate_datasets(list(load(folder(made, "enterprise", "parquet"), tmp_path).values()))
    wds = datasets.concatenate_datasets(list(load(folder(made, "enterprise", "wds"), tmp_path).values()))
    assert len(parquet) == len(wds) == len(rows)
    for flat, nested in zip(parquet, wds, strict=True):
        source = rows[flat["record_id"]]
        for name in tier.granted:
            if name == "created_at":
                assert datetime.fromisoformat(flat[name]) == source[name]
                assert nested["json"][name] == source[name].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            else:
                assert flat[name] == nested["json"][name] == source[name], name
        assert flat["sample_id"] == nested["__key__"] == nested["json"]["sample_id"]
        for pair in ((flat["original"], flat["perturbed"]), (nested["original.png"], nested["perturbed.png"])):
            identities = [pixel_identity(np.asarray(image)) for image in pair]
            assert identities == [source["original_sha256"], source["perturbed_sha256"]]
            assert pair_id(*identities) == flat["sample_id"]


def test_perturbed_bytes_are_those_that_the_miner_signed(made: Made) -> None:
    bodies = {row["perturbed_sha256"]: row["body_sha256"] for row in made.rows}
    for file in folder(made, "enterprise", "parquet").rglob("*.parquet"):
        for row in pq.read_table(file, columns=["perturbed", "perturbed_sha256"]).to_pylist():
            assert hashlib.sha256(row["perturbed"]["bytes"]).hexdigest() == bodies[row["perturbed_sha256"]]
            assert row["perturbed"]["path"] is None


@pytest.mark.parametrize("tier", TIERS)
def test_webdataset_reads_the_tars(made: Made, tier: str) -> None:
    root = folder(made, tier, "wds")
    urls = sorted(str(path) for path in root.rglob("*.tar"))
    pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    found = list(pairs.to_tuple("original.png", "perturbed.png", "json"))
    card = yaml.safe_load((root / "README.md").read_text().split("---")[1])
    assert len(found) == sum(split["num_examples"] for split in card["dataset_info"][0]["splits"])
    for original, perturbed, row in found:
        levels = int(np.abs(np.asarray(original).astype(int) - np.asarray(perturbed).astype(int)).max())
        assert levels == row["linf_levels"]


def test_views_are_configurations(made: Made, tmp_path: Path) -> None:
    path = folder(made, "research", "parquet")
    names = datasets.get_dataset_config_names(str(path))
    assert {"default", "minimal", "high_margin", "transferable"} <= set(names)
    everything = load(path, tmp_path)
    holds = {
        "minimal": lambda row: row["linf_levels"] == 1,
        "high_margin": lambda row: row["margin"] >= 2,
        "transferable": lambda row: any(other["flipped"] for other in row["transfer"] or ()),
    }
    for name, hold in holds.items():
        view = load(path, tmp_path, name=name)
        for split, rows in view.items():
            assert rows["sample_id"][:] == [row["sample_id"] for row in everything[split] if hold(row)]
        streamed = load(path, tmp_path, name=name, streaming=True)
        assert {split: len(list(rows)) for split, rows in streamed.items()} == view.num_rows


@pytest.mark.parametrize("root", ["parquet", "wds", "by_photo"])
def test_a_root_that_lost_samples_is_noticed(made: Made, tmp_path: Path, root: str) -> None:
    """A tar cut between two samples reads without error: the card's counts are what tells."""
    source = folder(made, "research", root)
    copy = tmp_path / "copy"
    for path in source.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    if root == "wds":
        cut = max(copy.rglob("*.tar"), key=lambda path: path.stat().st_size)
        with tarfile.open(cut) as tar:
            end = tar.getmembers()[-3].offset
        cut.write_bytes(cut.read_bytes()[:end])
    else:
        cut = max(copy.rglob("*.parquet"), key=lambda path: path.stat().st_size)
        table = pq.read_table(cut)
        pq.write_table(table.slice(1), cut)
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        load(copy, tmp_path / "cache")


def test_tar_members_are_plain_adjacent_and_short(made: Made) -> None:
    for path in folder(made, "professional", "wds").rglob("*.tar"):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        names = [member.name for member in members]
        keys = [name.split(".")[0] for name in names]
        assert [name.partition(".")[2] for name in names] == ["original.png", "perturbed.png", "json"] * (
            len(names) // 3
        )
        assert all(len(set(keys[place : place + 3])) == 1 for place in range(0, len(keys), 3))
        assert len(set(keys)) == len(keys) // 3
        assert all(member.mtime == 0 and member.uid == 0 and len(member.name) < 100 for member in members)
        assert path.read_bytes().endswith(bytes(1024))


def test_parquet_is_made_for_filters_and_small_reads(made: Made) -> None:
    for path in folder(made, "professional", "parquet").rglob("*.parquet"):
        file = pq.ParquetFile(path)
        assert b"huggingface" in file.schema_arrow.metadata
        for group in range(file.num_row_groups):
            columns = [file.metadata.row_group(group).column(place) for place in range(file.metadata.num_columns)]
            by_name = {column.path_in_schema: column for column in columns}
            assert by_name["original.bytes"].compression == "UNCOMPRESSED"
            assert not by_name["perturbed.bytes"].is_stats_set
            assert by_name["linf_levels"].is_stats_set
            assert by_name["linf_levels"].has_offset_index
            assert by_name["persists.jpeg75"].is_stats_set
            assert by_name["transfer.list.element.margin"].compression == "ZSTD"
    # A photograph that stands in several rows of a row group is stored once there.
    sizes = {path.name: path.stat().st_size for path in folder(made, "professional", "parquet").rglob("*.parquet")}
    assert sizes


def test_row_groups_are_cut_by_bytes() -> None:
    megabyte = 2**20
    assert row_groups([20 * megabyte, 20 * megabyte, 5 * megabyte]) == [slice(0, 1), slice(1, 3)]
    assert row_groups([90 * megabyte, 1]) == [slice(0, 1), slice(1, 2)]
    assert row_groups([]) == []


def test_duckdb_and_polars_read_the_parquet_root(made: Made) -> None:
    root = folder(made, "professional", "parquet")
    rows = [row for row in made.rows if row["outcome"] == "accepted"]
    ((count, worst),) = duckdb.sql(f"SELECT count(*), max(linf_levels) FROM '{root}/data/*/*.parquet'").fetchall()
    assert (count, worst) == (len(rows), max(row["linf_levels"] for row in rows))
    frame = polars.scan_parquet(f"{root}/data/*/*.parquet").filter(polars.col("margin") >= 2).select("sample_id")
    assert frame.collect().height == sum(row["margin"] >= 2 for row in rows)
    ((png,),) = duckdb.sql(f"SELECT perturbed.bytes FROM '{root}/data/*/*.parquet' LIMIT 1").fetchall()
    assert Image.open(BytesIO(png)).mode == "RGB"


def test_digests_are_those_of_the_files_and_the_card_lists_them_all(made: Made) -> None:
    for tier in TIERS:
        base = folder(made, tier, "")
        listed = [
            file for path in sorted(base.glob(".perturb/*.json")) for file in json.loads(path.read_text())["files"]
        ]
        on_disk = {str(path.relative_to(base)) for path in base.rglob("*") if path.suffix in (".parquet", ".tar")}
        assert {file["key"] for file in listed} == on_disk
        for file in listed:
            data = (base / file["key"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
        for root in {path.split("/")[0] for path in on_disk}:
            card = yaml.safe_load((base / root / "README.md").read_text().split("---")[1])
            (default,) = [config for config in card["configs"] if config["config_name"] == "default"]
            paths = {f"{root}/{path}" for split in default["data_files"] for path in split["path"]}
            assert paths == {key for key in on_disk if key.startswith(root)}
            assert "*" not in "".join(paths)


def test_mlcroissant_reads_photographs_with_all_their_versions(made: Made, tmp_path: Path) -> None:
    import mlcroissant

    root = folder(made, "research", "by_photo")
    loaded = mlcroissant.Dataset(jsonld=str(root / "croissant.json"))
    assert not loaded.metadata.issues.errors
    for split, rows in load(root, tmp_path).items():
        for record, row in zip(loaded.records(split), rows, strict=True):
            values = {name.removeprefix(f"{split}/"): value for name, value in record.items()}
            assert values["image_id"].decode() == row["image_id"]
            versions = [np.asarray(image) for image in values["adversarial"]]
            assert all(map(np.array_equal, versions, map(np.asarray, row["adversarial"])))
            assert len(versions) == len(row["adversarial"])
            assert values["pairs.linf_levels"] == [pair["linf_levels"] for pair in row["pairs"]]


def test_mlcroissant_reads_every_record_from_where_its_file_is(made: Made, tmp_path: Path) -> None:
    import mlcroissant

    root = folder(made, "research", "parquet")
    loaded = mlcroissant.Dataset(jsonld=str(root / "croissant.json"))
    assert not loaded.metadata.issues.errors
    files = {file.id: file.sha256 for file in loaded.metadata.distribution if getattr(file, "sha256", None)}
    for name, digest in files.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest
    for split, rows in load(root, tmp_path).items():
        records = list(loaded.records(split))
        assert len(records) == len(rows)
        for record, row in zip(records, rows, strict=True):
            values = {name.removeprefix(f"{split}/"): value for name, value in record.items()}
            assert values["sample_id"].decode() == row["sample_id"]
            assert np.array_equal(np.asarray(values["perturbed"]), np.asarray(row["perturbed"]))
            assert values["created_at"] == datetime.fromisoformat(row["created_at"])
            assert values["persists.jpeg75"] == row["persists"]["jpeg75"]
            assert values["transfer.margin"] == (row["transfer"] and [other["margin"] for other in row["transfer"]])


def test_a_reader_of_the_public_dataset_reads_the_layout_by_photograph(made: Made, tmp_path: Path) -> None:
    """As public trainers read it: images without decoding, a list of PNGs a row, the label by its English name."""
    public = load(folder(made, "professional", "by_photo"), tmp_path)
    pairs = {row["sample_id"]: row for split in load(folder(made, "professional", "parquet"), tmp_path).values()
             for row in split.cast_column("original", datasets.Image(decode=False))
             .cast_column("perturbed", datasets.Image(decode=False))}  # fmt: skip
    seen = []
    for rows in public.values():
        assert isinstance(rows.features["true_label"], datasets.ClassLabel)
        rows = rows.cast_column("image", datasets.Image(decode=False))
        rows = rows.cast_column("adversarial", datasets.Sequence(datasets.Image(decode=False)))
        assert len(set(rows["image_id"])) == len(rows)
        for row in rows:
            own = [pairs[pair["sample_id"]] for pair in row["pairs"]]
            assert [version["bytes"] for version in row["adversarial"]] == [pair["perturbed"]["bytes"] for pair in own]
            assert {pair["original"]["bytes"] for pair in own} == {row["image"]["bytes"]}
            assert {pair["true_label_name"] for pair in own} == {row["label_name"]}
            assert {pair["true_label"] for pair in own} == {row["true_label"]}
            assert min(pair["created_at"] for pair in own) == row["created_at"]
            elsewhere = ("original", "perturbed", "true_label", "true_label_name")
            metadata = [{name: pair[name] for name in pair if name not in elsewhere} for pair in own]
            assert row["pairs"] == metadata
            seen += [pair["sample_id"] for pair in own]
    assert sorted(seen) == sorted(pairs)


def test_ids_of_photographs_are_valid_in_their_tier_alone(made: Made) -> None:
    """Without hotkeys they are neither the pixel identities, which every tier has, nor those of another tier."""

    def ids(tier: str) -> set[str]:
        files = folder(made, tier, "by_photo").rglob("*.parquet")
        return {name for file in files for name in pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()}

    identities = {row["original_sha256"] for row in made.rows}
    assert len(ids("professional")) == len(identities)
    assert ids("professional").isdisjoint(ids("research") | identities)


def test_photographs_are_whole_wherever_files_and_row_groups_are_cut(tmp_path: Path, plain_plots: None) -> None:
    """A photograph is in one file and one row, although its pairs come in several batches."""
    made = make_corpus(open_store(str(tmp_path)), days=DAYS[:1], rounds=7, miners=5)
    columns = ("true_label", "true_label_name", "original_sha256")
    # With hotkeys files are cut by the bytes of their images, which are few here.
    tier = Tier(name="t", description="d", columns=columns, layouts=("pairs", "by_photo"), miner="hotkey", license="l")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perturb.sinks.dataset.writers.GROUP_BYTES", 1500)
        patch.setattr("perturb.tasks.export.export.plan_day", partial(plan_day, shard_bytes=9_000))
        export(made.corpus, tier, today=date(2027, 1, 1))
    root = tmp_path / "exports/t/by_photo/data/train"
    files = [pq.ParquetFile(path) for path in sorted(root.glob("*.parquet"))]
    assert 1 < len(files) < sum(file.num_row_groups for file in files)
    rows = [row for file in files for row in file.read().to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert all(len(row["pairs"]) == len(row["adversarial"]) == 4 for row in rows)
    assert all({pair["original_sha256"] for pair in row["pairs"]} == {identity(row["image"])} for row in rows)


def identity(image: dict[str, Any]) -> str:
    return pixel_identity(np.asarray(Image.open(BytesIO(image["bytes"]))))


def test_a_photograph_with_two_truths_has_two_rows() -> None:
    names = ("true_label", "true_label_name")
    rows = pa.table({"true_label": [1, 2, 1, 1], "true_label_name": ["a", "b", "a", "a"]})
    assert photo_groups(rows, ["x", "x", "x", "y"]) == [[0, 2], [1], [3]]
    assert photo_groups(rows.drop_columns(list(names)), ["x", "x", "x", "y"]) == [[0, 1, 2], [3]]


def test_torch_and_numpy_take_every_column(made: Made, tmp_path: Path) -> None:
    for tier in TIERS:
        rows = load(folder(made, tier, "parquet"), tmp_path, split="train")
        for kind in ("torch", "numpy"):
            found = rows.with_format(kind)[0]
            assert set(found) == set(rows.features)
            assert tuple(found["perturbed"].shape) in ((3, 12, 12), (12, 12, 3))


def test_parquet_files_name_lists_as_every_version_of_datasets_reads_them(made: Made) -> None:
    """`datasets` 3 knows no feature called List; it and later versions read a list of one feature."""
    for path in folder(made, "professional", "parquet").rglob("*.parquet"):
        described = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
        assert '"List"' not in json.dumps(described)
        assert described["transfer"] == [datasets.Features.from_dict(described).to_dict()["transfer"]["feature"]]
        features = datasets.Features.from_arrow_schema(pq.read_schema(path))
        assert isinstance(features["transfer"], datasets.List)
        assert isinstance(features["perturbed"], datasets.Image)


def test_a_hostile_subject_stays_text_in_the_card(tmp_path: Path, plain_plots: None) -> None:
    hostile = "x | y\n\n---\nlicense: mit\n---\n# pwned <script>alert(1)</script> ![p](http://e/p.png) $x^2$"

    def changes(day: date, number: int, miner: int) -> dict[str, Any]:
        return {"true_label_name": hostile, "license": hostile, "source": hostile, "classifier": hostile}

    made = make_corpus(open_store(str(tmp_path)), days=DAYS[:1], rounds=8, miners=2, changes=changes)
    tier = Tier(name="t", description="d", columns=("@source", "@challenge", "@verdict"), license="l")
    export(made.corpus, tier, today=date(2027, 1, 1))
    text = (tmp_path / "exports/t/parquet/README.md").read_text()
    assert "<script" not in text
    assert "![p]" not in text
    assert "\n# pwned" not in text
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert front["license"] == "other"


def test_real_plots_of_hostile_labels_are_drawn_without_mathtext() -> None:
    from perturb.sinks.dataset.day_index import Statistics
    from perturb.sinks.dataset.plots import draw_plots

    statistics = Statistics(counts={"true_label_name": {r"$\frac{1}{$": 3, "日本 \x00": 1}}, flips={"a$ → b$": 2})
    assert set(draw_plots(statistics)) == {"classes.png", "flips.png"}


@pytest.fixture
def labels(made: Made) -> Any:
    """Labels of a classifier that sees what the corpus says it sees."""
    known = {row["original_sha256"]: row["true_label"] for row in made.rows}
    known |= {row["perturbed_sha256"]: row["adversarial_label"] for row in made.rows if row["outcome"] == "accepted"}

    class Labels:
        height = width = 12
        lies = False

        def logits(self, pixels: np.ndarray) -> np.ndarray:
            seen = [known[pixel_identity(image)] + self.lies for image in pixels]
            return np.eye(9)[seen]

        def label_name(self, index: int) -> str:
            return f"class {index}"

    return Labels()


def test_read_back_proves_a_record_or_says_that_it_does_not_hold(made: Made, labels: Any) -> None:
    flips = [row for row in made.rows if row["outcome"] == "accepted" and row["true_label"] != row["adversarial_label"]]
    assert flips
    found = read_back(str(folder(made, "professional", "")), classifier=labels)
    assert found.agree
    assert len(found.records) == 7
    assert set(found.records.values()) == {sum(row["outcome"] == "accepted" for row in made.rows)}
    assert found.proof.holds == found.proof.flips
    labels.lies = True
    assert not read_back(str(folder(made, "professional", "")), classifier=labels).proof.holds


def test_an_export_without_records_is_read_back_as_that(made: Made, labels: Any) -> None:
    tier = load_tiers(Path("tiers.toml"))["sample"].model_copy(update={"name": "nothing", "where": "linf_levels > 255"})
    assert export(made.corpus, tier, today=date(2027, 1, 1)).records == 0
    found = read_back(str(folder(made, "nothing", "")), classifier=labels)
    assert (found.records, found.holds, found.proof) == ({}, True, None)


@pytest.fixture(autouse=True)
def no_bars() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


RUN_BLOCKS = """
import re, sys
for block in re.findall(r"```python\\n(.*?)```", open(sys.argv[1]).read(), re.DOTALL):
    exec(compile(block, sys.argv[1], "exec"), {})
    print("ran")
"""


@pytest.mark.slow
def test_every_snippet_of_the_docs_runs(made: Made, tmp_path: Path) -> None:
    """In a process of its own, as a subscriber would: loader workers are forked from it."""
    (tmp_path / "exports").symlink_to(Path(made.corpus.store.url) / "exports")
    (tmp_path / "research.links.json").write_bytes(share(made.corpus.store, "research").to_json())
    ran = subprocess.run(
        [sys.executable, "-c", RUN_BLOCKS, str(Path("docs/subscribing.md").absolute())],
        cwd=tmp_path,
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.stdout.splitlines().count("ran") == 11, ran.stderr[-2000:]
