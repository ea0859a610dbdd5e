"""Measures whether a corpus that is years old costs as much to run as a young one.

    python benchmarks/longevity.py [--days 1825] [--rounds 720] [--miners 8] [--young 30] [--store URL] [--repeats 3]

Builds a corpus of that age (metadata and log real, images left out) with an export of all days but the newest and
`--live` rounds of today, and the same at `--young` days. On both it runs, each in a process of its own,
`perturb status`, `weights --dry-run` without and with what its last run kept, `prove` of a record of the first day and
of the newest, `gc --dry-run`, `cost`, an export plan of the newest day, and at last the seal of one more day.

Times include the start of Python; each is the median of the repeats, which alternate between the two corpora. Memory is
the peak of the process. The last line is a JSON object; `ratio` is old corpus against young.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perturb.schemas.neuron import Neuron
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.sealed_days import entry_day
from perturb.sinks.dataset.contents import ExportContents, write_contents
from perturb.sinks.dataset.day_index import DayIndex, ExportFile, Statistics
from perturb.sinks.dataset.keys import index_key
from perturb.sinks.log.log import Log
from perturb.sinks.stores.open import open_store
from perturb.subnet.roster import write_roster
from perturb.tasks.corpus.commit import commit_round
from tests.support.old_corpus import VALIDATOR, DayFiles, age, hotkeys
from tests.support.synthetic import make_round

_ROOT = Path(__file__).resolve().parent.parent
TIER = "enterprise"
COMMANDS = ("status", "weights", "weights_again", "prove_old", "prove_new", "gc", "cost", "plan", "seal")


@dataclass
class Made:
    """A corpus of some age: its store, and one record of its first and of its newest day."""

    store: str
    first: str
    newest: str
    records: int


def build(store: str, *, days: int, rounds: int, miners: int, live: int) -> Made:
    """Make a corpus whose newest day is yesterday, its export but for that day, and rounds of today.

    One that is there already is taken as it is.
    """
    today = datetime.now(UTC).date()
    if (newest := Corpus(open_store(store)).newest()) is not None:
        return _found(Corpus(open_store(store)), newest)
    opened, made, started = open_store(store), list[DayFiles](), time.monotonic()
    for one in age(opened, days=days, rounds=rounds, miners=miners, last=today - timedelta(days=1), processes=2):
        made.append(one)
        if len(made) % 100 == 0:
            print(f"  {len(made)} of {days} days, {time.monotonic() - started:.0f} s", flush=True)
    indexes = [_index(one.day, one.merkle_root, one.records) for one in made[:-1]]
    for index in indexes:
        opened.put_new(index_key(TIER, index.day), index.to_json())
    write_contents(opened, ExportContents(tier=TIER).plus(indexes))
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_commit, [store] * live, [miners] * live, range(live), chunksize=20))
    return Made(store, made[0].some_record, made[-1].some_record, days * rounds * miners)


def _found(corpus: Corpus, newest: Manifest) -> Made:
    """Return what a corpus that was made before has."""
    first = corpus.manifest(entry_day(Log(corpus.store).record(0).entry))
    assert first is not None
    some = [next(corpus.rows(day))[0]["record_id"] for day in (first, newest)]
    return Made(corpus.store.url, *some, corpus.totals().records)


def _index(day: date, root: str, records: int) -> DayIndex:
    """Return the index of an exported day. Its files are left out."""
    files = [
        ExportFile(
            key=f"{format}/data/{split}/{day}-00000.{suffix}", root=format, split=split,
            rows=records // 3, size=10**8, sha256="0" * 64,
        )
        for format, suffix in (("parquet", "parquet"), ("wds", "tar"))
        for split in ("train", "validation", "test")
    ]  # fmt: skip
    splits = {"train": records - 2 * (records // 20), "validation": records // 20, "test": records // 20}
    return DayIndex(
        tier=TIER, day=day, records=records, merkle_root=root, files=tuple(files), statistics=Statistics(splits=splits)
    )


def _commit(store: str, miners: int, place: int) -> None:
    """Commit a round of today with small images."""
    midnight = datetime.combine(datetime.now(UTC).date(), clock_time(), UTC)
    made = make_round(
        (11, place), miners=miners, refused=0, side=16, created_at=midnight + timedelta(seconds=place),
        validator=VALIDATOR.ss58_address,
    )  # fmt: skip
    parts = (made.challenge, made.responses, made.verdicts, made.scores)
    commit_round(
        Corpus(open_store(store)), *parts, netuid=26, block=None,
        validator_hotkey=VALIDATOR.ss58_address, signer=VALIDATOR,
    )  # fmt: skip


def arguments(command: str, made: Made, scratch: Path) -> list[str]:
    """Return the arguments of `perturb` for one of `COMMANDS`."""
    proof = str(scratch / "proof.json")
    return {
        "status": ["status", "--json"],
        "weights": ["weights", "--dry-run", "--no-flow"],
        "weights_again": ["weights", "--dry-run", "--no-flow"],
        "prove_old": ["prove", made.first, "-o", proof],
        "prove_new": ["prove", made.newest, "-o", proof],
        "gc": ["gc", "--dry-run", "--no-flow"],
        "cost": ["cost"],
        "plan": ["export", "--tier", TIER, "--dry-run", "--no-flow"],
        "seal": ["seal", "--day", f"{datetime.now(UTC).date()}", "--early", "--no-flow"],
    }[command]


def run(command: str, made: Made, scratch: Path, roster: Path) -> tuple[float, float]:
    """Run one command; return its seconds and the peak of its memory in MB. Exits when it fails."""
    environment = os.environ | {
        # This tree's program, whatever is installed.
        "PYTHONPATH": str(_ROOT),
        "PERTURB_STORE": made.store,
        "PERTURB_TIERS": str(_ROOT / "tiers.toml"),
        "PERTURB_SUBNET__NETWORK": "local",
        "PERTURB_SUBNET__HOTKEY_URI": "//PerturbValidator",
        "PERTURB_SUBNET__ROSTER": str(roster),
        "PERTURB_CACHE_DIR": str(scratch / "cache"),
        # The images of today's rounds are synthetic, so that none would verify again.
        "PERTURB_SEAL__REVERIFY_FRACTION": "0",
    }
    with suppress(FileNotFoundError):
        (scratch / "proof.json").unlink()
    called = [sys.executable, "-c", "from perturb.cli import main; main()", *arguments(command, made, scratch)]
    started = time.perf_counter()
    with (scratch / "output").open("w+") as output:
        process = subprocess.Popen(called, env=environment, stdout=output, stderr=output, cwd=scratch)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        # 10: the status found something that needs attention, as the export of the newest day is not there.
        if process.returncode not in ((0, 10) if command == "status" else (0,)):
            output.seek(0)
            raise SystemExit(f"perturb {' '.join(called[3:])} failed: {output.read()[-2000:]}")
    return seconds, usage.ru_maxrss / 1024


def measure(
    ages: dict[str, Made], miners: int, repeats: int, folder: Path
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return the median seconds and the peak memory of each command on each corpus."""
    roster = folder / "roster.toml"
    neurons = [Neuron(uid=uid, hotkey=hotkey, endpoint="127.0.0.1:8091") for uid, hotkey in enumerate(hotkeys(miners))]
    write_roster(roster, neurons, validators=[VALIDATOR.ss58_address])
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for command in COMMANDS:
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ages}
        for _ in range(1 if command == "seal" else repeats):
            for name, made in ages.items():
                scratch = folder / name
                # A cold cache each time, but for `weights_again`, which has what the last run of `weights` kept.
                if command != "weights_again":
                    shutil.rmtree(scratch, ignore_errors=True)
                    scratch.mkdir()
                runs[name].append(run(command, made, scratch, roster))
        found[command] = {
            name: (statistics.median(seconds for seconds, _ in each), max(peak for _, peak in each))
            for name, each in runs.items()
        }
        line = ", ".join(f"{name} {seconds:.2f} s {peak:.0f} MB" for name, (seconds, peak) in found[command].items())
        print(f"{command:10} {line}", flush=True)
    return found


def main() -> None:
    """Build both corpora, measure, and print a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=1825)
    parser.add_argument("--young", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=720)
    parser.add_argument("--miners", type=int, default=8)
    parser.add_argument("--live", type=int, help="rounds of today; default: a day's")
    parser.add_argument("--repeats", type=int, default=3, help="0: only make the corpora")
    parser.add_argument("--store", help="where both are made, or were made before; default: a temporary folder")
    options = parser.parse_args()
    live = options.rounds if options.live is None else options.live
    with tempfile.TemporaryDirectory(prefix="perturb-longevity-") as temporary:
        folder, ages = Path(temporary), {}
        for name, days in (("young", min(options.young, options.days)), ("old", options.days)):
            print(f"making {days} days, {days * options.rounds * options.miners:,} records", flush=True)
            store = f"{(options.store or temporary).rstrip('/')}/{name}-corpus"
            ages[name] = build(store, days=days, rounds=options.rounds, miners=options.miners, live=live)
        if not options.repeats:
            return
        found = measure(ages, options.miners, options.repeats, folder)
    result: dict[str, object] = {"days": options.days, "records": ages["old"].records, "miners": options.miners}
    for command, corpora in found.items():
        seconds, peak = corpora["old"]
        result |= {f"{command}_s": round(seconds, 2), f"{command}_mb": round(peak)}
    ratios = {command: round(each["old"][0] / each["young"][0], 2) for command, each in found.items()}
    print(json.dumps(result | {"ratio": ratios}))


if __name__ == "__main__":
    main()
