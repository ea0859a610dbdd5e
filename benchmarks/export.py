"""How fast a tier is exported, against the obvious way.

    python benchmarks/export.py [--records 20000] [--side 224] [--folder DIR] [--repeats 3]

The obvious way: the corpus is WebDataset tars with `{key}.original.png`, `{key}.perturbed.png` and `{key}.json`; read
them with `webdataset`, decode the JSON, apply the filter, write with `webdataset.ShardWriter`. It computes no digests.
An export starts from a sealed day, and checks and hashes everything that it writes. Both select the same share of
records and grant the same columns. They take turns, on a memory file system if the machine has one, so that the disk is
not what is measured. `--clock cpu` counts processor seconds instead of wall seconds, for a machine that runs other
programs too. MB/s are those of the selected images. The last line is a JSON object: seconds of the obvious way over
those of the `wds/` format, and the speed of the `parquet/` format over that of `wds/`.
"""

import argparse
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.sealed import samples, write_sealed
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import read_contents
from perturb.sinks.dataset.features import metadata_schema
from perturb.sinks.dataset.writers import Format, formats_of, row_json
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.plan import plan_day
from perturb.tasks.export.publish_card import publish_cards
from perturb.tasks.export.write_day import write_day, write_shard
from perturb.tasks.tiers.identifiers import in_fraction, pair_id

KEY = b"benchmark"
COLUMNS = ("@source", "@challenge", "@verdict", "@score", "@pixels", "created_at", "response_ms", "outcome")
SHARES = (0.01, 0.1, 1.0)
INTERNAL = ("__url__", "__local_path__")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def tier_of(share: float) -> Tier:
    """Return a tier that selects a share of the records."""
    return Tier(
        name=f"share-{round(share * 100)}", description="benchmark", columns=COLUMNS, fraction=share, license="none"
    )


def write_obvious(folder: Path, records: int, side: int) -> list[str]:
    """Write the corpus as plain WebDataset tars with every column in the JSON, and return their paths."""
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxsize=512 * 2**20, verbose=0) as writer:
        for sample in samples(records, side=side):
            key = pair_id(sample.row["original_sha256"], sample.row["perturbed_sha256"])
            writer.write(
                {
                    "__key__": key,
                    "original.png": sample.original,
                    "perturbed.png": sample.perturbed,
                    "json": row_json({"sample_id": key} | sample.row),
                }
            )
    return sorted(map(str, folder.glob("*.tar")))


def export_obvious(urls: list[str], target: Path, share: float) -> int:
    """Read, decode the JSON, filter and write; return the number of records kept."""
    import webdataset

    granted = metadata_schema(tier_of(share)).names
    target.mkdir()
    kept = 0
    with webdataset.ShardWriter(f"{target}/%05d.tar", maxsize=512 * 2**20, verbose=0) as writer:
        for sample in webdataset.WebDataset(urls, shardshuffle=False):
            row = json.loads(sample["json"])
            if row["outcome"] == "accepted" and in_fraction(row["sample_id"], share, key=KEY):
                sample["json"] = json.dumps({name: row[name] for name in granted}).encode()
                writer.write({name: value for name, value in sample.items() if name not in INTERNAL})
                kept += 1
    return kept


def export_ours(corpus: Corpus, share: float, formats: tuple[Format, ...]) -> int:
    """Plan, then write the given formats (with both also the index); return the number of records."""
    tier = tier_of(share)
    plan = plan_day(corpus, corpus.manifests()[0], tier, key=KEY)
    if formats == formats_of(tier):
        write_day(corpus, tier, plan)
    else:
        for shard in plan.shards:
            write_shard(corpus, tier, plan, shard, formats=formats)
    return plan.records


def measure(folder: Path, corpus: Corpus, urls: list[str], share: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return the median seconds of each way, the number of rows selected and the bytes of their images."""
    seconds: dict[str, list[float]] = {}
    clock = CLOCKS[options.clock]
    rows = 0
    for _ in range(options.repeats):
        for name, work, target in _ways(folder, corpus, urls, share):
            shutil.rmtree(target, ignore_errors=True)
            start = clock()
            rows = work()
            seconds.setdefault(name, []).append(clock() - start)
    start = clock()
    _card(folder, share)
    medians = {name: statistics.median(times) for name, times in seconds.items()} | {"cards": clock() - start}
    plan = plan_day(corpus, corpus.manifests()[0], tier_of(share), key=KEY)
    shutil.rmtree(folder / "corpus" / "exports")
    shutil.rmtree(folder / "obvious-out")
    return {"rows": rows, "seconds": medians, "image_bytes": plan.image_bytes}


def _ways(folder: Path, corpus: Corpus, urls: list[str], share: float) -> Iterator[tuple[str, Callable[[], int], Path]]:
    exports = folder / "corpus" / "exports"
    yield "obvious", lambda: export_obvious(urls, folder / "obvious-out", share), folder / "obvious-out"
    yield "wds", lambda: export_ours(corpus, share, ("wds",)), exports
    yield "parquet", lambda: export_ours(corpus, share, ("parquet",)), exports
    yield "both", lambda: export_ours(corpus, share, formats_of(tier_of(share))), exports


def _card(folder: Path, share: float) -> None:
    store = open_store(str(folder / "corpus"))
    tier = tier_of(share)
    publish_cards(store, tier, read_contents(store, tier.name))


def main() -> None:
    """Build both forms of the corpus, measure each share, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        corpus = write_sealed(open_store(str(folder / "corpus")), options.records, side=options.side)
        urls = write_obvious(folder / "obvious", options.records, options.side)
        plain = sum(Path(url).stat().st_size for url in urls)
        print(f"{options.records} records, {plain / 1e9:.2f} GB as plain tars, {options.clock} seconds")
        print(f"{'selected':>9} {'way':>11} {'rows':>7} {'s':>8} {'rows/s':>9} {'MB/s':>8} {'obvious/this':>12}")
        for share in SHARES:
            found = measure(folder, corpus, urls, share, options)
            seconds = found["seconds"]
            for name, took in seconds.items():
                speed = found["image_bytes"] / took / 1e6
                print(f"{share:>9.0%} {name:>11} {found['rows']:>7} {took:>8.2f} {found['rows'] / took:>9.0f} "
                      f"{speed:>8.0f} {seconds['obvious'] / took:>12.2f}")  # fmt: skip
            result[f"export_{round(share * 100)}"] = round(seconds["obvious"] / seconds["wds"], 2)
            result[f"parquet_vs_wds_{round(share * 100)}"] = round(seconds["wds"] / seconds["parquet"], 2)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
