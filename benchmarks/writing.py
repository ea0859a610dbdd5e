"""Measures how fast the corpus is written and how much it stores, against peers and against a plain copy.

    python benchmarks/writing.py [--store directory|seaweedfs] [--rounds 18] [--miners 64] [--side 456]

The defaults are the size of the mainnet profile, EfficientNet-B5's input and a round of 64 answers, and rounds enough
that the disk is measured and not what it caches. What is stored for each pair is measured at 16 answers a challenge.

Peers, in the same run on the same samples: a plain copy of the same bytes (files written and fsynced, or one PUT for
each object; the day's copy reads them first, as sealing must), the same with a sha256 of what was copied,
`webdataset.ShardWriter` with one shard a round, whose samples are pairs (original, perturbed, json) as its format has
them, and one object for each image. "Naive" is the layout that stores the original again with every pair. Repetitions
alternate, each begins with nothing left to write back, and every figure is a median, because the speed of disks,
virtual ones above all, varies.

    python benchmarks/writing.py --scale 20000

seals half as many records and then all of them, each in a process of its own, and adds the memory and the time.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perturb.schemas.settings import S3Settings, SealSettings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.seal import seal_day
from tests.support.servers import ACCESS_KEY, SECRET_KEY, seaweedfs
from tests.support.synthetic import DAY, SyntheticRound, make_round

MB = 1e6
LATER = DAY + timedelta(days=9)


def commit_all(corpus: Corpus, rounds: list[SyntheticRound]) -> None:
    """Commit all rounds by the function that production uses."""
    for made in rounds:
        commit_round(
            corpus, made.challenge, made.responses, made.verdicts, made.scores,
            netuid=26, block=None, validator_hotkey="benchmark",
        )  # fmt: skip


def objects(store: Store, prefix: str) -> list[tuple[str, bytes]]:
    """Return all objects below a prefix with their bytes."""
    return [(entry.key, store.get(entry.key)) for entry in store.entries(prefix)]


def copy_one(store: Store, key: str, data: bytes) -> None:
    """Write bytes durably and do nothing else: the limit for any writer."""
    root = getattr(store, "root", None)
    if root is None:
        store._client.put_object(Bucket=store._bucket, Key=key, Body=data)  # type: ignore[attr-defined]
        return
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_rounds(store: Store, found: Iterable[tuple[str, bytes]], *, hashed: bool = False) -> None:
    """Write the rounds' bytes from memory."""
    for key, data in found:
        if hashed:
            hashlib.sha256(data).hexdigest()
        copy_one(store, f"copied/{key}", data)


def copy_day(store: Store, keys: list[str], *, hashed: bool = False) -> None:
    """Read and write the sealed day's bytes."""
    copy_rounds(store, ((key, store.get(key)) for key in keys), hashed=hashed)


def one_object_each(store: Store, rounds: list[SyntheticRound], *, where: str) -> None:
    """Write each image as an object of its own."""
    for made in rounds:
        store.put_new(f"{where}/{made.challenge.round_id}/original.png", made.challenge.png)
        for place, response in enumerate(made.responses):
            store.put_new(f"{where}/{made.challenge.round_id}/{place}.png", response.body)


def shard_writer(store: Store, rounds: list[SyntheticRound], folder: Path) -> None:
    """webdataset's writer with the same pairs, a shard a round, made durable or uploaded."""
    import webdataset

    for made in rounds:
        pattern = str(folder / f"{made.challenge.round_id}-%05d.tar")
        with webdataset.ShardWriter(pattern, verbose=0) as writer:
            for place, (response, verdict, score) in enumerate(
                zip(made.responses, made.verdicts, made.scores, strict=True)
            ):
                facts = made.challenge.task.model_dump(mode="json") | verdict.model_dump(mode="json")
                writer.write(
                    {
                        "__key__": f"{made.challenge.round_id}-{place:04d}",
                        "original.png": made.challenge.png,
                        "perturbed.png": response.body,
                        "json": facts | score.model_dump(mode="json"),
                    }
                )
        path = Path(pattern % 0)
        if hasattr(store, "root"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            store.put(f"shardwriter/{path.name}", path.read_bytes())
            path.unlink()


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Store]:
    """Yield the store to measure."""
    if kind == "directory":
        yield open_store(str(folder / "store"))
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with seaweedfs(folder / "seaweedfs") as server:
        server.make_bucket("bench")
        settings = S3Settings(endpoint_url=server.endpoint, region="us-east-1", addressing_style="path")
        yield open_store("s3://bench/corpus", settings)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def clear(store: Store, *prefixes: str) -> None:
    """Remove what one repetition wrote."""
    root = getattr(store, "root", None)
    for prefix in prefixes:
        if root is not None:
            shutil.rmtree(root / prefix, ignore_errors=True)
        else:
            for entry in list(store.entries(prefix)):
                store.delete(entry.key)


def measure(store: Store, rounds: list[SyntheticRound], scratch: Path) -> dict[str, float]:
    """Run each way to write once; return its seconds, and the bytes that were written."""
    seconds: dict[str, float] = {}

    def time_it(name: str, action: Callable[[], object]) -> None:
        clear(store, "copied/", "each/", "shardwriter/")
        os.sync()
        seconds[name] = timed(action)

    clear(store, "rounds/", "sealed/", "log/")
    time_it("commit", lambda: commit_all(Corpus(store), rounds))
    committed = objects(store, "rounds/")
    seconds["round_bytes"] = sum(len(data) for _, data in committed)
    seconds["round_metadata"] = sum(len(data) for key, data in committed if key.endswith(".parquet"))
    time_it("copy_rounds", lambda: copy_rounds(store, committed))
    time_it("hash_and_copy_rounds", lambda: copy_rounds(store, committed, hashed=True))
    committed.clear()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        time_it("shardwriter", lambda: shard_writer(store, rounds, Path(folder)))
    time_it("each", lambda: one_object_each(store, rounds, where="each"))
    corpus, settings = Corpus(store), SealSettings()
    time_it("seal", lambda: seal_day(corpus, DAY.date(), settings=settings, now=lambda: LATER))
    sealed = [entry for entry in store.entries("sealed/") if not entry.key.endswith(".json")]
    keys = [entry.key for entry in sealed]
    time_it("copy_day", lambda: copy_day(store, keys))
    time_it("hash_and_copy_day", lambda: copy_day(store, keys, hashed=True))
    seconds["sealed_bytes"] = sum(entry.size for entry in sealed)
    return seconds


def stored(side: int, *, miners: int = 16, rounds: int = 6) -> float:
    """Return the bytes of a sealed day divided by those of storing the original again with every pair."""
    made = [make_round((6, seed), miners=miners, refused=0, side=side) for seed in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(open_store(folder))
        commit_all(corpus, made)
        manifest = seal_day(corpus, DAY.date(), settings=SealSettings(), now=lambda: LATER).manifest
    ours = sum(entry.size for entry in manifest.files)
    naive = sum(len(one.challenge.png) + len(response.body) for one in made for response in one.responses)
    pairs = rounds * miners
    print(f"{'bytes a pair, 16 answers':32} {ours / pairs:9.0f}, naive {naive / pairs:.0f}")
    return ours / naive


def commit_many(records: int, folder: Path) -> None:
    """Commit a day of many small records."""
    corpus = Corpus(open_store(str(folder)))
    for number in range(records // 50):
        created = DAY + timedelta(milliseconds=number)
        commit_all(corpus, [make_round((9, number), miners=50, refused=0, side=48, created_at=created)])


def seal_many(folder: Path) -> dict[str, float]:
    """Seal that day; return seconds of processor time and of wall time, and the peak memory in MB."""
    corpus = Corpus(open_store(str(folder)))
    seal = partial(seal_day, corpus, DAY.date(), settings=SealSettings(), now=lambda: LATER)
    busy = time.process_time()
    wall = timed(seal)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu": time.process_time() - busy, "wall": wall, "mb": peak}


def _in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def scale(records: int) -> dict[str, float]:
    """Measure how the time and memory of sealing grow with the number of records."""
    found = []
    for size in (records // 2, records):
        with tempfile.TemporaryDirectory() as folder:
            _in_a_process(commit_many, size, Path(folder))
            found.append(_in_a_process(seal_many, Path(folder)))
        print(f"sealing {size} records: {found[-1]['wall']:.1f} s, {found[-1]['cpu']:.1f} s of processor", end="")
        print(f", {found[-1]['mb']:.0f} MB at most")
    return {
        "seal_records": records,
        "seal_peak_mb": found[1]["mb"],
        "seal_cpu_growth_for_double": found[1]["cpu"] / found[0]["cpu"],
    }


def main() -> None:
    """Run, print a table, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=["directory", "seaweedfs"], default="directory")
    parser.add_argument("--rounds", type=int, default=18)
    parser.add_argument("--miners", type=int, default=64)
    parser.add_argument("--side", type=int, default=456)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scale", type=int, default=0, help="also seal this many small records, and half as many")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    rounds = [
        make_round((5, seed), miners=options.miners, refused=0, side=options.side, created_at=DAY.astimezone(UTC))
        for seed in range(options.rounds)
    ]
    perturbed = sum(len(response.body) for made in rounds for response in made.responses)
    originals = sum(len(made.challenge.png) for made in rounds)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, opened(options.store, Path(folder)) as store:
        runs = [measure(store, rounds, Path(folder)) for _ in range(options.repeat)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    naive = perturbed + originals * options.miners
    table = [
        ("commit rounds", middle["round_bytes"], middle["commit"]),
        ("  plain copy of the rounds", middle["round_bytes"], middle["copy_rounds"]),
        ("  copy and sha256", middle["round_bytes"], middle["hash_and_copy_rounds"]),
        ("  webdataset.ShardWriter, pairs", naive, middle["shardwriter"]),
        ("  one object for each image", perturbed + originals, middle["each"]),
        ("seal the day", middle["sealed_bytes"], middle["seal"]),
        ("  plain copy of the day", middle["sealed_bytes"], middle["copy_day"]),
        ("  copy and sha256", middle["sealed_bytes"], middle["hash_and_copy_day"]),
    ]
    print(f"{options.store}: {options.rounds} rounds of {options.miners} pairs, {options.side} x {options.side} pixels")
    for name, size, seconds in table:
        print(f"{name:32} {size / MB:9.1f} MB {seconds:8.2f} s {size / MB / seconds:9.1f} MB/s")
    print(f"{'of a round, metadata':32} {middle['round_metadata'] / middle['round_bytes']:9.1%}")
    result = {
        "store": options.store,
        "commit_vs_copy": middle["copy_rounds"] / middle["commit"],
        "seal_vs_copy": middle["copy_day"] / middle["seal"],
        "commit_vs_copy_and_hash": middle["hash_and_copy_rounds"] / middle["commit"],
        "seal_vs_copy_and_hash": middle["hash_and_copy_day"] / middle["seal"],
        "commit_vs_shardwriter": middle["shardwriter"] / middle["commit"],
        "commit_vs_object_each": middle["each"] / middle["commit"],
        "bytes_vs_naive": stored(options.side),
    }
    if options.scale:
        result |= scale(options.scale)
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}))


if __name__ == "__main__":
    main()
