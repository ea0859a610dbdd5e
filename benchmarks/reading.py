"""How fast exports are read, against two other layouts of the same pairs.

    python benchmarks/reading.py [--records 2000] [--answers 8] [--side 224] [--repeats 3] [--clock wall]

The other layouts: the public Perturb dataset's (Parquet with one row per photograph, the list of its perturbed images
and a label, and nothing else about the pairs), and an image folder with a `metadata.jsonl`. Both are read with
`datasets`, streaming. Every reader decodes every image that it is given, which is most of the time: layouts by
photograph give a photograph once for all its perturbed images, the others once for each, so that pairs can be drawn
one by one. `datasets` decodes the first image of a list twice, so that layouts by photograph gain with the number of
answers that a photograph has (`--answers`): 2 / (1 + 2 / answers) times at most. The readers take turns in one
process; those with workers read through PyTorch's `DataLoader`, whose start is included. DuckDB reads metadata alone.
The last line is a JSON object.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.export import CLOCKS, KEY, tier_of
from benchmarks.sealed import ANSWERS, DAY, samples, write_sealed
from perturb.schemas.settings import S3Settings
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.keys import manifest_key
from perturb.sinks.dataset.contents import read_contents
from perturb.sinks.dataset.writers import row_json
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.plan import plan_day
from perturb.tasks.export.publish_card import publish_cards
from perturb.tasks.export.share import share
from perturb.tasks.export.write_day import write_day
from tests.support.servers import ACCESS_KEY, SECRET_KEY, seaweedfs


def write_public_layout(folder: Path, records: int, side: int, answers: int) -> None:
    """Write one row per photograph in the public dataset's columns, with the writer of `datasets`."""
    import datasets

    features = datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "created_at": datasets.Value("string"),
            "image": datasets.Image(),
            "adversarial": datasets.List(datasets.Image()),
            "label_name": datasets.Value("string"),
        }
    )

    def rows() -> Iterator[dict[str, Any]]:
        for _, group in itertools.groupby(
            samples(records, side=side, answers=answers), key=lambda each: each.row["original_sha256"]
        ):
            pairs = list(group)
            yield {
                "image_id": pairs[0].row["original_sha256"],
                "created_at": str(pairs[0].row["created_at"]),
                "image": {"bytes": pairs[0].original, "path": None},
                "adversarial": [{"bytes": pair.perturbed, "path": None} for pair in pairs],
                "label_name": pairs[0].row["true_label_name"],
            }

    folder.mkdir()
    made = datasets.Dataset.from_list(list(rows()), features=features)
    # As many bytes in a row group as in an export: a row here has several pairs.
    made.to_parquet(f"{folder}/train.parquet", batch_size=max(1, 100 // answers))


def write_folder_layout(folder: Path, records: int, side: int, answers: int) -> None:
    """Write an image folder: PNG files, and one line of JSON for each pair."""
    (folder / "train").mkdir(parents=True)
    with (folder / "train" / "metadata.jsonl").open("wb") as lines:
        for number, sample in enumerate(samples(records, side=side, answers=answers)):
            names = {"original_file_name": f"{number}.original.png", "perturbed_file_name": f"{number}.perturbed.png"}
            (folder / "train" / names["original_file_name"]).write_bytes(sample.original)
            (folder / "train" / names["perturbed_file_name"]).write_bytes(sample.perturbed)
            lines.write(json.dumps(names | json.loads(row_json(sample.row))).encode() + b"\n")


def read_parquet(path: Path) -> int:
    """Read the `parquet/` format with `datasets`, streaming."""
    import datasets

    rows = _stream(datasets.load_dataset(str(path), streaming=True))
    return _count((row["original"], row["perturbed"]) for row in rows)


def read_wds_datasets(path: Path) -> int:
    """Read the `wds/` format with `datasets`, streaming."""
    import datasets

    rows = _stream(datasets.load_dataset(str(path), streaming=True))
    return _count((row["original.png"], row["perturbed.png"]) for row in rows)


def read_webdataset(path: Path) -> int:
    """Read the `wds/` format with `webdataset`."""
    import webdataset

    urls = sorted(str(tar) for tar in path.rglob("*.tar"))
    pairs = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    return _count((one, other) for one, other, _ in pairs.to_tuple("original.png", "perturbed.png", "json"))


def read_public(path: Path) -> int:
    """Read one row per photograph with `datasets`, streaming, as a reader of the public dataset does."""
    import datasets

    rows = _stream(datasets.load_dataset("parquet", data_files=f"{path}/train.parquet", streaming=True))
    return _count_photographs(rows)


def read_by_photo(path: Path) -> int:
    """Read the `by_photo/` format with `datasets`, streaming, every column of it."""
    import datasets

    return _count_photographs(_stream(datasets.load_dataset(str(path), streaming=True)))


def read_with_workers(path: Path, workers: int) -> int:
    """Read the `parquet/` format through a `DataLoader` with so many processes, each of which decodes."""
    import datasets
    from torch.utils.data import DataLoader

    splits = datasets.load_dataset(str(path), streaming=True, columns=["original", "perturbed"])
    loaders = [
        DataLoader(rows, batch_size=64, num_workers=min(workers, rows.num_shards), collate_fn=_shapes)
        for rows in splits.values()
    ]
    return sum(len(batch) for loader in loaders for batch in loader)


def _shapes(rows: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """Decode both images of each row; their sizes are what a worker sends back, as sending is not measured here."""
    return [np.asarray(row["original"]).shape + np.asarray(row["perturbed"]).shape for row in rows]


def query_metadata(path: Path) -> int:
    """Count flips by label with DuckDB, which reads the columns that it needs; return the number of records."""
    import duckdb

    found = duckdb.sql(
        f"SELECT true_label, adversarial_label, avg(margin), count(*) FROM '{path}/data/*/*.parquet' GROUP BY ALL"
    ).fetchall()
    return sum(count for *_, count in found)


def _count_photographs(rows: Iterator[dict[str, Any]]) -> int:
    """Decode every image of every row, each photograph once, and return the number of pairs."""
    count = 0
    for row in rows:
        for image in (row["image"], *row["adversarial"]):
            image.load()
        count += len(row["adversarial"])
    return count


def read_folder(path: Path) -> int:
    """Read an image folder with `datasets`, streaming."""
    import datasets

    rows = _stream(datasets.load_dataset("imagefolder", data_dir=str(path), streaming=True))
    return _count((row["original"], row["perturbed"]) for row in rows)


def _stream(splits: Any) -> Iterator[dict[str, Any]]:
    for rows in splits.values():
        yield from rows


def _count(pairs: Iterator[tuple[Any, Any]]) -> int:
    """Decode both images of every pair and return the number of pairs."""
    count = 0
    for pair in pairs:
        for image in pair:
            image.load()
        count += 1
    return count


def write_export(corpus: Corpus, tier: Tier) -> Path:
    """Export the sealed day in several files, so that loader workers have some each; return the tier's folder."""
    (manifest,) = corpus.manifests()
    whole = plan_day(corpus, manifest, tier, key=KEY)
    plan = plan_day(corpus, manifest, tier, key=KEY, shard_bytes=max(1, whole.image_bytes // 8))
    write_day(corpus, tier, plan)
    publish_cards(corpus.store, tier, read_contents(corpus.store, tier.name))
    return Path(corpus.store.url) / "exports" / tier.name


def first_pair_from_s3(exported: Store, tier: str, folder: Path) -> float:
    """Return the seconds until the first decoded pair, streamed by presigned links from a local server."""
    import datasets

    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with seaweedfs(folder) as server:
        server.make_bucket("bench")
        settings = S3Settings(endpoint_url=server.endpoint, region="us-east-1", addressing_style="path")
        store = open_store("s3://bench/corpus", settings)
        # The manifest too: links are given to days that are sealed in the same store.
        for key in (manifest_key(DAY), *(entry.key for entry in exported.entries("exports/"))):
            store.put_new(key, exported.get(key))
        links = json.loads(share(store, tier).to_json())["data_files"]["parquet"]
        start = time.perf_counter()
        rows = _stream(datasets.load_dataset("parquet", data_files=links, streaming=True))
        _count((row["original"], row["perturbed"]) for row in itertools.islice(rows, 1))
        return time.perf_counter() - start


def main() -> None:
    """Write the layouts, read each in turns, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--answers", type=int, default=ANSWERS, help="pairs of a photograph")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        corpus = write_sealed(
            open_store(str(folder / "corpus")), options.records, side=options.side, answers=options.answers
        )
        tier = tier_of(1.0).model_copy(update={"layouts": ("pairs", "wds", "by_photo")})
        root = write_export(corpus, tier)
        first = first_pair_from_s3(corpus.store, tier.name, folder / "seaweedfs")
        shutil.rmtree(folder / "corpus" / "sealed")
        write_public_layout(folder / "public", options.records, options.side, options.answers)
        write_folder_layout(folder / "images", options.records, options.side, options.answers)
        readers: dict[str, Callable[[], int]] = {
            "parquet/, datasets streaming": lambda: read_parquet(root / "parquet"),
            "wds/, datasets streaming": lambda: read_wds_datasets(root / "wds"),
            "wds/, webdataset": lambda: read_webdataset(root / "wds"),
            "by_photo/, datasets streaming": lambda: read_by_photo(root / "by_photo"),
            "public layout, datasets streaming": lambda: read_public(folder / "public"),
            "image folder, datasets streaming": lambda: read_folder(folder / "images"),
            "parquet/, datasets with 1 worker": lambda: read_with_workers(root / "parquet", 1),
            "parquet/, datasets with 2 workers": lambda: read_with_workers(root / "parquet", 2),
            "parquet/, DuckDB on metadata": lambda: query_metadata(root / "parquet"),
        }
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeats):
            for name, read in readers.items():
                start = clock()
                count = read()
                speeds[name].append(count / (clock() - start))
                assert count == options.records, (name, count)
    found = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        f"{options.records} pairs, {options.answers} a photograph, {options.side} pixels a side, {options.clock} clock"
    )
    print(f"the first pair, streamed from an S3 server on this machine: {first:.2f} s")
    for name, speed in found.items():
        print(f"{name:>44} {speed:>8.0f} pairs/s")
    ours, _, tars, photographs, public, images, one, two, queried = found.values()
    print(
        json.dumps(
            {
                "by_photo_vs_pairs": round(photographs / ours, 2),
                "by_photo_vs_public": round(photographs / public, 3),
                "datasets_vs_folder": round(ours / images, 2),
                "two_workers_vs_one": round(two / one, 2),
                "webdataset_samples_per_s": round(tars),
                "datasets_samples_per_s": round(ours),
                "duckdb_records_per_s": round(queried),
                "first_pair_from_s3_s": round(first, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
