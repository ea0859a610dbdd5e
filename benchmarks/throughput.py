"""Measure verified pairs per minute of production under Prefect, with rounds overlapped and one after the other.

    python benchmarks/throughput.py [--rounds 24] [--miners 8] [--side 512] [--judge none]
                                    [--cluster dask|ray|none] [--folder DIR]
    python benchmarks/throughput.py --fresh --photos DIR [--rounds 24] [--miners 8]

Eight local miners, each a process of its own, answer over HTTP. One of them finds a flip for all; then they wait until
they have taken as long as verification does (measured first). So their work takes almost none of this machine's time,
as with remote miners. Then the same number of rounds runs one after the other, and overlapped. Model loading and the
start of Prefect's server are not counted; all work of a round is. The judge is `none` by default, because in the long
run its cache answers nearly all questions.

With `--fresh` the photographs are crops and flips of those in DIR, of which none comes twice in a run, and the judge is
Gemma. Runs of overlapping rounds over the same photographs are compared: with a judge that knows all answers already
("warm", before and after the others), with one that knows only the scores of the package, and with one that has
only prepared its labels. Nothing is sealed or exported.

Overhead is the time of the flow in which it does not draw, wait for miners, verify or commit: Prefect and artifacts.
Then all produced rounds are sealed (every record verified again) and eight synthetic days exported, on one
worker of a local Dask or Ray cluster and on two, each with one thread for computing. The last line is a JSON object.
"""

import argparse
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from functools import wraps
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import perturb.miner.answer
from perturb.schemas.bounds import Bounds
from perturb.schemas.image import Pixels

if TYPE_CHECKING:
    from perturb.models.classifier import Classifier

_PATIENCE = "BENCHMARK_PATIENCE"
P = ParamSpec("P")
T = TypeVar("T")
_Spans = dict[str, list[tuple[float, float]]]


def patient(
    classifier: "Classifier", pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
) -> Pixels:
    """Return the flip that one miner computes for all, with a few values changed, after a calibrated wait."""
    import numpy as np
    from filelock import FileLock

    from perturb.attacks import load_attack
    from perturb.schemas.image import pixel_identity

    # Half of the work of a waiting miner is to compress its answer, and it would be done on this machine.
    perturb.miner.answer.encode_png = quick_png
    started = time.monotonic()
    patience = Path(os.environ[_PATIENCE])
    shared = patience.with_name(f"{pixel_identity(pixels)}.npy")
    with FileLock(patience.with_name("computing.lock")):
        if not shared.exists():
            np.save(shared, load_attack("fgsm")(classifier, pixels, label, bounds, deadline=deadline, seed=seed))
        answer = np.load(shared)
    rows, columns = np.random.default_rng().integers(0, pixels.shape[:2], (4, 2)).T
    answer[rows, columns] = pixels[rows, columns]
    time.sleep(max(0.0, min(started + float(patience.read_text()), deadline - 0.2) - time.monotonic()))
    return answer


def quick_png(pixels: Pixels) -> bytes:
    """Return an 8-bit RGB PNG, compressed quickly."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


@contextmanager
def timed_stages() -> Iterator[_Spans]:
    """Yield start and end of each call of a production line's stages."""
    from perturb.flows.engine.production_line import ProductionLine
    from perturb.models.judge.judge import LanguageJudge

    spans: _Spans = defaultdict(list)
    stages = [(ProductionLine, "draw", "draw"), (ProductionLine, "collect", "collect")]
    stages += [(ProductionLine, "finish", "finish"), (LanguageJudge, "belongs", "judge")]
    stages += [(LanguageJudge, "same_kind", "judge")]
    plain = [(owner, method, stage, getattr(owner, method)) for owner, method, stage in stages]

    def timed(name: str, stage: Callable[P, T]) -> Callable[P, T]:
        @wraps(stage)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            started = time.perf_counter()
            try:
                return stage(*args, **kwargs)
            finally:
                spans[name].append((started, time.perf_counter()))

        return call

    for owner, method, stage, function in plain:
        setattr(owner, method, timed(stage, function))
    try:
        yield spans
    finally:
        for owner, method, _, function in plain:
            setattr(owner, method, function)


def union(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of the intervals."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def run(rounds: int, *, overlap: bool, store: str) -> dict[str, float]:
    """Return the figures of one run of the flow: seconds per round, pairs per minute."""
    from perturb.flows.produce import produce

    with timed_stages() as spans:
        summary = produce(rounds=rounds, overlap=overlap, store=store, seed=7)
    every = [span for stage in spans.values() for span in stage]
    wall = max(last for _, last in every) - min(first for first, _ in every)
    return {
        "pairs_per_minute": 60 * summary.accepted / wall,
        "accepted": summary.accepted,
        "round_s": wall / rounds,
        **{f"{name}_s": union(spans[name]) / rounds for name in ("draw", "collect", "finish", "judge")},
        "overhead_share": 1 - union(every) / wall,
    }


@contextmanager
def waiting_miners(rounds: int, miners: int, folder: Path) -> Iterator[None]:
    """Run miners that know a flip for each photograph of `rounds` rounds, and wait as long as verification takes."""
    from perturb.miner.local import start_local_miners
    from perturb.schemas.settings import load_settings

    patience = folder / "attack" / "patience"
    patience.parent.mkdir(parents=True)
    patience.write_text("0")
    os.environ[_PATIENCE] = str(patience)
    attacks = ["benchmarks.throughput:patient"] * miners
    with start_local_miners(attacks, settings=load_settings(), folder=folder / "miners", budget_seconds=60) as started:
        os.environ["PERTURB_SUBNET__NETWORK"] = "local"
        os.environ["PERTURB_SUBNET__ROSTER"] = str(started.roster)
        # The same photographs come again in every run, so the flips of the measured ones are known by then.
        run(rounds, overlap=False, store=str(folder / "warm"))
        # Twice: miners that wait do their own small work meanwhile, which the first time was on top.
        waiting = 0.0
        for attempt in ("calm", "calmer"):
            calm = run(max(3, rounds // 3), overlap=False, store=str(folder / attempt))
            waiting = max(0.0, waiting + calm["finish_s"] - calm["collect_s"])
            patience.write_text(str(waiting))
        yield


def production(rounds: int, miners: int, folder: Path) -> dict[str, dict[str, float]]:
    """Measure both ways of running rounds."""
    with waiting_miners(rounds, miners, folder):
        return {
            "one after the other": run(rounds, overlap=False, store=str(folder / "serial")),
            "overlapped": run(rounds, overlap=True, store=str(folder / "overlapped")),
        }


def fresh_production(rounds: int, miners: int, folder: Path, photos: Path) -> dict[str, dict[str, float]]:
    """Measure production on photographs that the judge knows all about, and on those that it has never met."""
    from benchmarks.fresh import forget_judgements, link_models, make_fresh_photographs, without_package_file
    from perturb.models.judge.judge import LanguageJudge, load_judge
    from perturb.schemas.settings import load_settings

    cache = folder / "cache"
    link_models(load_settings().cache, cache)
    make_fresh_photographs(photos, folder / "photographs", number=3 * rounds)
    os.environ |= {"PERTURB_CACHE_DIR": str(cache), "PERTURB_SOURCE": f"folder:{folder / 'photographs'}"}
    # Before the miners start, since it takes minutes; the runs with the package's file do not use what it leaves.
    with without_package_file():
        judge = load_judge(load_settings().judge, cache=cache)
        assert isinstance(judge, LanguageJudge)
        judge.prepare(cache, tell=lambda state: print(state, file=sys.stderr))
    with waiting_miners(rounds, miners, folder):
        rows = {"warm, before": run(rounds, overlap=True, store=str(folder / "before"))}
        forget_judgements(cache)
        rows["fresh"] = run(rounds, overlap=True, store=str(folder / "fresh"))
        rows["warm, after"] = run(rounds, overlap=True, store=str(folder / "after"))
        forget_judgements(cache)
        with without_package_file():
            rows["fresh, prepared only"] = run(rounds, overlap=True, store=str(folder / "prepared"))
    return rows


def print_rows(rows: dict[str, dict[str, float]]) -> None:
    """Print a line of figures for each run."""
    print(f"{'':22}" + "".join(f"{name:>18}" for name in next(iter(rows.values()))))
    for name, row in rows.items():
        print(f"{name:22}" + "".join(f"{value:18.3f}" for value in row.values()))


@contextmanager
def cluster(kind: str, workers: int) -> Iterator[None]:
    """A local cluster of that many processes, which the task runner finds."""
    os.environ["PERTURB_RUNNER"] = kind
    if kind == "dask":
        from distributed import LocalCluster

        with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as running:
            os.environ["PERTURB_RUNNER_ADDRESS"] = running.scheduler_address
            yield
        return
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def on_cluster(kind: str, workers: int, folder: Path, days: list[date]) -> float:
    """Seconds to seal the produced rounds and to export synthetic days with that many worker processes."""
    with cluster(kind, workers):
        # The first pass is for what each process does once: importing Prefect and torch, loading the classifier.
        for attempt in ("first", "second"):
            seconds = seal_and_export(folder, folder / f"{kind}-{workers}-{attempt}", days)
        print(f"{kind}, {workers} workers: " + ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))
    return sum(seconds.values())


def seal_and_export(folder: Path, copies: Path, days: list[date]) -> dict[str, float]:
    """Seconds of both, on copies of what was produced."""
    from perturb.flows.export import export
    from perturb.flows.seal import seal
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.sinks.stores.open import open_store

    rounds, sealed = copies / "rounds", copies / "days"
    shutil.copytree(folder / "rounds", rounds)
    shutil.copytree(folder / "days", sealed)
    started = time.perf_counter()
    seal(day=Corpus(open_store(str(rounds))).open_day(datetime.now(UTC)), store=str(rounds), early=True)
    between = time.perf_counter()
    export(tiers=["enterprise"], store=str(sealed), today=days[-1] + timedelta(days=9))
    return {"seal": between - started, "export": time.perf_counter() - between}


def make_days(folder: Path, *, days: int, rounds: int) -> list[date]:
    """Sealed days of synthetic records of the usual size; made by all cores."""
    from perturb.schemas.settings import SealSettings
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.corpus.seal import seal_day
    from tests.support.synthetic import DAY

    made = [DAY + timedelta(days=number) for number in range(days)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        list(processes.map(commit_day, [folder] * days, made, [rounds] * days))
    corpus = Corpus(open_store(str(folder)))
    for day in made:
        seal_day(corpus, day.date(), settings=SealSettings(reverify_fraction=0), early=True)
    return [day.date() for day in made]


def commit_day(folder: Path, day: datetime, rounds: int) -> None:
    """Rounds of eight answers, in one partition."""
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.corpus.commit import commit_round
    from tests.support.synthetic import make_round

    corpus = Corpus(open_store(str(folder)))
    for place in range(rounds):
        r = make_round([day.toordinal(), place], miners=8, side=224, created_at=day + timedelta(seconds=place))
        parts = (r.challenge, r.responses, r.verdicts, r.scores)
        commit_round(corpus, *parts, netuid=26, block=None, validator_hotkey="5Validator")


def cluster_ratio(kind: str, folder: Path) -> float:
    """How much faster two workers are than one."""
    os.environ |= {"PERTURB_SEAL__REVERIFY_FRACTION": "1", "OMP_NUM_THREADS": "1"}
    # As docs/operations.md has workers started: Dask's own setting makes glibc map every image anew.
    os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
    for produced in ("warm", "calm", "calmer", "serial", "overlapped"):
        shutil.copytree(folder / produced, folder / "rounds", dirs_exist_ok=True)
    days = make_days(folder / "days", days=8, rounds=80)
    seconds = {workers: on_cluster(kind, workers, folder, days) for workers in (1, 2)}
    print(f"seal and export: {seconds[1]:.1f} s on one worker, {seconds[2]:.1f} s on two")
    return seconds[1] / seconds[2]


def fresh_result(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return pairs a minute and their ratios to the mean of the warm runs."""
    speed = {name: row["pairs_per_minute"] for name, row in rows.items()}
    warm = (speed["warm, before"] + speed["warm, after"]) / 2
    return {
        "warm_pairs_per_minute": round(warm, 1),
        "fresh_pairs_per_minute": round(speed["fresh"], 1),
        "fresh_vs_warm": round(speed["fresh"] / warm, 3),
        "prepared_only_pairs_per_minute": round(speed["fresh, prepared only"], 1),
        "prepared_only_vs_warm": round(speed["fresh, prepared only"] / warm, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--miners", type=int, default=8)
    parser.add_argument("--judge", help="default: none; with --fresh gemma-3-270m")
    parser.add_argument("--fresh", action="store_true", help="on photographs that never recur")
    parser.add_argument("--photos", type=Path, help="with --fresh: the folder that they are made of")
    parser.add_argument("--side", type=int, default=0, help="of the images, pixels; 0 takes the classifier's own")
    parser.add_argument("--cluster", choices=("dask", "ray", "none"), default="dask", help="what to seal and export on")
    parser.add_argument("--folder", type=Path, help="where stores and logs go; default: a temporary folder")
    options = parser.parse_args()
    if options.fresh != (options.photos is not None):
        parser.error("--fresh and --photos DIR belong together")
    os.environ["PERTURB_JUDGE__NAME"] = options.judge or ("gemma-3-270m" if options.fresh else "none")
    os.environ["PERTURB_CLASSIFIER__INPUT_SIZE"] = str(options.side)
    if options.side:
        # The network is less sure of larger images than of its own size; whether they are worth asking is not measured.
        os.environ |= {"PERTURB_CHALLENGE__MIN_CLEAN_MARGIN": "0.2", "PERTURB_CHALLENGE__MIN_CLEAN_CONFIDENCE": "0.02"}
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="perturb-throughput-") as temporary:
        folder = options.folder or Path(temporary)
        if options.fresh:
            rows = fresh_production(options.rounds, options.miners, folder, options.photos)
            print_rows(rows)
            print(json.dumps(fresh_result(rows)))
            return
        rows = production(options.rounds, options.miners, folder)
        print_rows(rows)
        ratio = None if options.cluster == "none" else cluster_ratio(options.cluster, folder)
    serial, overlapped = rows["one after the other"], rows["overlapped"]
    print(
        json.dumps(
            {
                "pairs_per_minute": round(overlapped["pairs_per_minute"], 1),
                "overlap_ratio": round(overlapped["pairs_per_minute"] / serial["pairs_per_minute"], 3),
                "overhead_share": round(overlapped["overhead_share"], 4),
                f"{'ray' if options.cluster == 'ray' else 'dask'}_ratio": None if ratio is None else round(ratio, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
