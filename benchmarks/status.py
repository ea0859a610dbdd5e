"""How long `perturb status` takes on a corpus of 100,000 records, the start of Python included.

    python benchmarks/status.py [--days 17] [--rounds 720] [--repeats 5] [--store DIR]

A round every two minutes with eight answers makes 720 rounds a day: that many days are sealed, and today's rounds are
live, one small file each. Images are tiny, because `status` reads none. The last line is a JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from perturb.schemas.settings import SealSettings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.seal import seal_day
from tests.support.synthetic import make_round

_ANSWERS = 8


def commit_day(store: str, midnight: datetime, rounds: int) -> None:
    """A day's rounds, a second apart."""
    corpus = Corpus(open_store(store))
    for place in range(rounds):
        made = make_round(
            [midnight.toordinal(), place],
            miners=_ANSWERS - 1,
            side=16,
            created_at=midnight + timedelta(seconds=place),
        )
        parts = (made.challenge, made.responses, made.verdicts, made.scores)
        commit_round(corpus, *parts, netuid=26, block=None, validator_hotkey="5Validator")


def make_corpus(store: str, *, days: int, rounds: int) -> None:
    """Sealed days up to yesterday and a live today."""
    today = datetime.combine(datetime.now(UTC).date(), clock_time(), UTC)
    made = [today - timedelta(days=back) for back in range(days, -1, -1)]
    with ProcessPoolExecutor() as processes:
        list(processes.map(commit_day, [store] * len(made), made, [rounds] * len(made)))
    corpus = Corpus(open_store(store))
    for midnight in made[:-1]:
        seal_day(corpus, midnight.date(), settings=SealSettings(reverify_fraction=0), early=True)


def ask(store: str) -> tuple[float, dict[str, Any]]:
    """Seconds of one `perturb status --json`, and what it said."""
    command = [str(Path(sys.executable).with_name("perturb")), "status", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"PERTURB_STORE": store}, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if not done.stdout:
        raise SystemExit(f"perturb status failed: {done.stderr}")
    return seconds, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=720)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--store", help="where the corpus is made, or was made before; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perturb-status-") as temporary:
        store = options.store or temporary
        if not any(Path(store).glob("sealed")):
            print(f"making {(options.days + 1) * options.rounds * _ANSWERS} records", flush=True)
            make_corpus(store, days=options.days, rounds=options.rounds)
        asked = [ask(store) for _ in range(options.repeats)]
    seconds = sorted(taken for taken, _ in asked)
    status = asked[-1][1]
    if not status["responses"]:
        raise SystemExit(f"{store} has no rounds of today; name a folder that doesn't exist, and it is made")
    records = status["sealed_records"] + status["responses"]
    taken = ", ".join(f"{second:.2f}" for second in seconds)
    print(f"{status['sealed_records']} sealed and {status['responses']} live records: {taken} s")
    median, worst = round(statistics.median(seconds), 2), round(seconds[-1], 2)
    print(json.dumps({"records": records, "median_s": median, "worst_s": worst}))


if __name__ == "__main__":
    main()
