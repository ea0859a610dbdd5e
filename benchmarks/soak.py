"""Measure whether a long run grows: memory, file descriptors, threads, disk outside the corpus.

    python benchmarks/soak.py [--rounds 2000] [--every 100] [--folder DIR]

One local miner answers over HTTP with a cheap attack (noise, which mostly flips nothing), the judge is `none` and
persistence is off, so that rounds are short. After each `--every` rounds a line is printed. Growth is the mean of the
last quarter relative to that of the second quarter, because caches fill in the first. Prefect's database grows with its
history by design and is shown separately. The last line is a JSON object.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from perturb.models.classifier import Classifier
    from perturb.schemas.bounds import Bounds
    from perturb.schemas.image import Pixels

_ENVIRONMENT = {
    "PERTURB_JUDGE__NAME": "none",
    "PERTURB_CLASSIFIER__PERSISTENCE": "false",
    "PERTURB_SUBNET__NETWORK": "local",
    "PREFECT_LOGGING_LEVEL": "ERROR",
}


def noise(
    classifier: "Classifier", pixels: "Pixels", label: int, bounds: "Bounds", *, deadline: float, seed: int
) -> "Pixels":
    """Return each value one level up or down: valid, different for each seed, and done in a millisecond."""
    import numpy as np

    step = np.random.default_rng(seed).integers(0, 2, pixels.shape, dtype=np.int16) * 2 - 1
    return np.clip(pixels.astype(np.int16) + step, 0, 255).astype(np.uint8)


def measure(folder: Path) -> dict[str, float]:
    """Return what this process uses now: MB and counts."""
    import psutil

    process = psutil.Process()
    outside = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    database = sum(path.stat().st_size for path in (folder / "prefect").glob("prefect.db*"))
    return {
        "rss_mb": process.memory_info().rss / 1e6,
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
        "outside_mb": outside / 1e6,
        "prefect_mb": database / 1e6,
    }


def watch(folder: Path, every: int, rows: list[dict[str, float]], done: threading.Event) -> None:
    """Append and print a row each time that `every` more rounds are in the store."""
    due = every
    while not done.wait(0.5):
        rounds = sum(1 for _ in (folder / "store").glob("rounds/*/*/metadata.parquet"))
        if rounds >= due:
            row = {"rounds": float(rounds), "seconds": time.monotonic(), **measure(folder)}
            rows.append(row)
            print("  ".join(f"{name} {value:.1f}" for name, value in row.items()), flush=True)
            due = rounds + every


def growth(rows: list[dict[str, float]], name: str) -> float:
    """Return the mean of the last quarter over that of the second quarter, less one."""
    quarter = max(1, len(rows) // 4)
    early = statistics.fmean(row[name] for row in rows[quarter : 2 * quarter] or rows[:1])
    late = statistics.fmean(row[name] for row in rows[-quarter:])
    return late / early - 1 if early else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perturb-soak-") as temporary:
        folder = options.folder or Path(temporary)
        os.environ.update(_ENVIRONMENT)
        os.environ.update(PERTURB_CACHE_DIR=str(folder / "cache"), PREFECT_HOME=str(folder / "prefect"))
        from perturb.flows.produce import produce
        from perturb.miner.local import start_local_miners
        from perturb.schemas.settings import load_settings

        rows: list[dict[str, float]] = []
        done = threading.Event()
        watcher = threading.Thread(target=watch, args=(folder, options.every, rows, done), daemon=True)
        attacks = ["benchmarks.soak:noise"]
        with start_local_miners(attacks, settings=load_settings(), folder=folder / "miners") as miners:
            os.environ["PERTURB_SUBNET__ROSTER"] = str(miners.roster)
            watcher.start()
            summary = produce(rounds=options.rounds, store=str(folder / "store"))
        done.set()
    if len(rows) < 2:
        raise SystemExit("fewer than two measurements; give more --rounds or a smaller --every")
    names = ("rss_mb", "descriptors", "threads", "children", "outside_mb")
    result = {f"{name}_growth": round(growth(rows, name), 4) for name in names}
    print(json.dumps({"rounds": summary.rounds, **result}))


if __name__ == "__main__":
    main()
