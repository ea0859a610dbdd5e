"""How fast exports are read, against two other layouts of the same pairs.

    python benchmarks/reading.py [--records 2000] [--side 224] [--repeats 3] [--clock wall]

The other layouts: Parquet with one row per photograph and a list of its perturbed images (read with `datasets`
streaming, one pair for each image of the list), and an image folder with a `metadata.jsonl` (read with `datasets`
streaming). Every reader decodes every image that it is given, which is most of the time: the list layout gives a
photograph once for all its perturbed images, the others once for each, so that pairs can be drawn one by one. Layouts
take turns in one process. The last line is a JSON object.
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
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.export import CLOCKS, tier_of
from benchmarks.sealed import ANSWERS, samples, write_sealed
from perturb.schemas.settings import S3Settings
from perturb.sinks.dataset.writers import row_json
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.export import export
from perturb.tasks.export.share import share
from tests.support.servers import ACCESS_KEY, SECRET_KEY, seaweedfs


def write_list_layout(folder: Path, records: int, side: int) -> None:
    """Write one row per photograph: the clean image, a list of perturbed images, a list of metadata."""
    import datasets

    features = datasets.Features(
        {
            "original": datasets.Image(),
            "perturbed": datasets.List(datasets.Image()),
            "metadata": datasets.List(datasets.Value("string")),
        }
    )

    def rows() -> Iterator[dict[str, Any]]:
        for _, group in itertools.groupby(samples(records, side=side), key=lambda each: each.row["original_sha256"]):
            pairs = list(group)
            yield {
                "original": {"bytes": pairs[0].original, "path": None},
                "perturbed": [{"bytes": pair.perturbed, "path": None} for pair in pairs],
                "metadata": [row_json(pair.row).decode() for pair in pairs],
            }

    folder.mkdir()
    made = datasets.Dataset.from_list(list(rows()), features=features)
    # As many bytes in a row group as in an export: a row here has several pairs.
    made.to_parquet(f"{folder}/train.parquet", batch_size=max(1, 100 // ANSWERS))


def write_folder_layout(folder: Path, records: int, side: int) -> None:
    """Write an image folder: PNG files, and one line of JSON for each pair."""
    (folder / "train").mkdir(parents=True)
    with (folder / "train" / "metadata.jsonl").open("wb") as lines:
        for number, sample in enumerate(samples(records, side=side)):
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


def read_list(path: Path) -> int:
    """Read one row per photograph with `datasets`, streaming."""
    import datasets

    rows = _stream(datasets.load_dataset("parquet", data_files=f"{path}/train.parquet", streaming=True))
    return _count((row["original"], image) for row in rows for image in row["perturbed"])


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


def first_pair_from_s3(exported: Store, tier: str, folder: Path) -> float:
    """Return the seconds until the first decoded pair, streamed by presigned links from a local server."""
    import datasets

    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with seaweedfs(folder) as server:
        server.make_bucket("bench")
        settings = S3Settings(endpoint_url=server.endpoint, region="us-east-1", addressing_style="path")
        store = open_store("s3://bench/corpus", settings)
        for entry in exported.entries("exports/"):
            store.put_new(entry.key, exported.get(entry.key))
        links = json.loads(share(store, tier).to_json())["data_files"]["parquet"]
        start = time.perf_counter()
        rows = _stream(datasets.load_dataset("parquet", data_files=links, streaming=True))
        _count((row["original"], row["perturbed"]) for row in itertools.islice(rows, 1))
        return time.perf_counter() - start


def main() -> None:
    """Write the layouts, read each in turns, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        corpus = write_sealed(open_store(str(folder / "corpus")), options.records, side=options.side)
        root = Path(export(corpus, tier_of(1.0), today=date(2030, 1, 1)).path)
        shutil.rmtree(folder / "corpus" / "sealed")
        first = first_pair_from_s3(corpus.store, tier_of(1.0).name, folder / "seaweedfs")
        write_list_layout(folder / "list", options.records, options.side)
        write_folder_layout(folder / "images", options.records, options.side)
        readers: dict[str, Callable[[], int]] = {
            "parquet/, datasets streaming": lambda: read_parquet(root / "parquet"),
            "wds/, datasets streaming": lambda: read_wds_datasets(root / "wds"),
            "wds/, webdataset": lambda: read_webdataset(root / "wds"),
            "a list of images a row, datasets streaming": lambda: read_list(folder / "list"),
            "image folder, datasets streaming": lambda: read_folder(folder / "images"),
        }
        speeds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.repeats):
            for name, read in readers.items():
                start = clock()
                count = read()
                speeds[name].append(count / (clock() - start))
                assert count == options.records, (name, count)
    found = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{options.records} pairs of {options.side} pixels a side, {options.clock} clock")
    print(f"the first pair, streamed from an S3 server on this machine: {first:.2f} s")
    for name, speed in found.items():
        print(f"{name:>44} {speed:>8.0f} pairs/s")
    ours, _, tars, lists, images = found.values()
    print(
        json.dumps(
            {
                "datasets_vs_list": round(ours / lists, 2),
                "datasets_vs_folder": round(ours / images, 2),
                "webdataset_samples_per_s": round(tars),
                "datasets_samples_per_s": round(ours),
                "first_pair_from_s3_s": round(first, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
