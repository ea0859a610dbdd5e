"""Kill the processes that write a corpus, again and again, and look whether anything was lost, doubled or left over.

A step (producing, sealing, entering documents in the log, exporting, collecting garbage) runs in a process of its own,
on synthetic rounds through the same functions that production uses. First every boundary between two operations of a
step on the store (and, for a directory, on the file system) is met by a SIGKILL once; then kills fall at random
moments, also on two sealers and a writer of the log that run at once. After each, the step is started again and
finishes; then the corpus must audit clean, every round and every entry that was acknowledged must be there, no record,
entry or day may be there twice, and once garbage was collected nothing may be left that no commit claims.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from perturb.schemas.settings import S3Settings, SealSettings, load_settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.log import entry as log_entry
from perturb.sinks.log import log as log_module
from perturb.sinks.log.entry import Kind, NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.corpus.audit import audit
from perturb.tasks.corpus.commit import commit_round
from perturb.tasks.corpus.gc import collect_garbage
from perturb.tasks.corpus.seal import seal_day
from perturb.tasks.export.export import export
from perturb.tasks.tiers.tier_file import parse_tiers
from tests.support.boundaries import Boundaries, distinct
from tests.support.servers import ACCESS_KEY, SECRET_KEY, seaweedfs
from tests.support.synthetic import DAY, make_round

NOW = timedelta(0)
FAR = DAY + timedelta(days=4000)
# A corpus is left for a fresh one after so many kills, so that its audits stay short.
_KILLS_A_CORPUS = 12
_TIER = parse_tiers((Path(__file__).parents[2] / "tiers.toml").read_text())["research"]
# "together" is two sealers and a writer of the log at once, each killed at a moment of its own.
STEPS = ("produce", "seal", "enter", "export", "gc", "together")
_AT_ONCE = ("seal", "seal", "enter")
# Kills at random moments fall where most happens; an export draws plots for seconds and writes for moments.
_WEIGHTS = {"produce": 5, "seal": 5, "enter": 2, "export": 1, "gc": 2, "together": 5}
# What exports keep is theirs to claim; the log is never garbage, nor are the documents that it names.
_OF_OTHERS = ("log/", "documents/", keys.LATE, "exports/", "releases/", "operator/")
# A tile of the log is full after so many entries, so that each step that enters three documents writes one.
_TILE = 2
_KINDS: tuple[Kind, ...] = ("plan", "certificate", "model-track")


@dataclass
class World:
    """One corpus under test: how to open it, how far its calendar got, and what was acknowledged."""

    open: Callable[[], Store]
    journal: Path
    day: int = 0
    kills: int = 0

    @property
    def date(self) -> date:
        """The day that is being produced."""
        return (DAY + timedelta(days=self.day)).date()

    @property
    def entered(self) -> Path:
        """A line for each document whose entry in the log was acknowledged."""
        return self.journal.with_suffix(".entered")


def step_produce(world: World, seed: int, rounds: int = 3) -> None:
    """Commit some rounds, noting each when its commit was acknowledged."""
    corpus = Corpus(world.open())
    for number in range(rounds):
        made = make_round((seed, number), side=32, miners=2, created_at=DAY + timedelta(days=world.day, seconds=number))
        commit_round(
            corpus, made.challenge, made.responses, made.verdicts, made.scores,
            netuid=26, block=None, validator_hotkey="crash",
        )  # fmt: skip
        with world.journal.open("a") as journal:
            journal.write(made.challenge.round_id + "\n")


def step_seal(world: World, seed: int) -> None:
    """Seal the day."""
    seal_day(Corpus(world.open()), world.date, settings=SealSettings(shard_bytes=30_000), now=lambda: FAR)


def step_enter(world: World, seed: int) -> None:
    """Enter three documents in the log, noting each when its entry was acknowledged."""
    store = world.open()
    for kind in _KINDS:
        key, data = f"documents/{seed}/{kind}.json", f"{kind} {seed}".encode()
        store.put_new(key, data)
        new = NewEntry(kind=kind, key=key, sha256=hashlib.sha256(data).hexdigest())
        Log(store).append(new, signer=None, at=FAR)
        with world.entered.open("a") as entered:
            entered.write(key + "\n")


def step_export(world: World, seed: int) -> None:
    """Bring one tier up to date."""
    export(Corpus(world.open()), _TIER, today=FAR.date())


def step_gc(world: World, seed: int) -> None:
    """Collect garbage without any grace: nothing else runs meanwhile."""
    collect_garbage(Corpus(world.open()), grace=NOW, keep_superseded=NOW)


RUN = {"produce": step_produce, "seal": step_seal, "enter": step_enter, "export": step_export, "gc": step_gc}


@dataclass
class Tally:
    """What happened; anything in `wrong` fails the run."""

    kills: int = 0
    boundaries: int = 0
    by_step: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    audits: int = 0
    records: int = 0
    orphans: int = 0
    wrong: list[str] = field(default_factory=list)


class Child:
    """An action in a forked process. The parent uses neither threads nor Arrow, so a fork finds nothing half done."""

    def __init__(self, action: Callable[[], Any]):
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._reader)
            status = 1
            try:
                with os.fdopen(writer, "w") as answer:
                    json.dump(action(), answer)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(writer)

    def kill(self) -> None:
        """Kill the process, unless it ended already."""
        os.kill(self._pid, signal.SIGKILL)

    def result(self) -> tuple[int, Any]:
        """Wait; return the exit status (-9 when killed) and the action's JSON result."""
        with os.fdopen(self._reader) as answer:
            text = answer.read()
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def in_child(action: Callable[[], Any], *, kill_after: float | None = None) -> tuple[int, Any]:
    """Run `action` in a process of its own, killed after so many seconds; return as `Child.result`."""
    child = Child(action)
    if kill_after is not None:
        time.sleep(kill_after)
        child.kill()
    return child.result()


def meet_boundaries(world: World, step: str, seed: int, kill_at: int | None) -> list[str]:
    """Run a step with boundaries; returns their names if it lives."""
    boundaries = Boundaries(kill_at)
    store = world.open()
    boundaries.install(store)
    RUN[step](World(lambda: store, world.journal, world.day), seed)
    return boundaries.names


def inspect(world: World) -> dict[str, Any]:
    """Everything that must hold after a restart; runs in a child."""
    wrong = []
    corpus = Corpus(world.open())
    report = audit(corpus)
    wrong += [f"audit: {fault.where}: {fault.what}" for fault in report.faults]
    acknowledged = set(world.journal.read_text().split())
    there = {ref.round_id for ref in corpus.live_rounds()}
    there |= {round_id for manifest in corpus.manifests() for round_id in corpus.claims(manifest)}
    wrong += [f"round {lost} was acknowledged and is lost" for lost in acknowledged - there]
    ids = corpus.table(columns=["record_id"]).column(0).to_pylist()
    if len(ids) != len(set(ids)):
        wrong.append("a record is there twice")
    if len(ids) != 3 * len(there):
        wrong.append(f"{len(there)} rounds have {len(ids)} records")
    return {"wrong": wrong + wrong_in_log(world, corpus), "records": len(ids)}


def wrong_in_log(world: World, corpus: Corpus) -> list[str]:
    """What is wrong with the log, beside what an audit finds."""
    log = Log(corpus.store)
    records = list(log.records())
    times = Counter(record.entry.key for record in records)
    wrong = [f"{key} is in the log {count} times" for key, count in times.items() if count > 1]
    acknowledged = set(world.entered.read_text().split()) if world.entered.exists() else set()
    wrong += [f"the entry of {lost} was acknowledged and is lost" for lost in acknowledged - times.keys()]
    wrong += [f"{key} is in the log and missing" for key in times if corpus.store.head(key) is None]
    if (newest := log.newest()) != (records[-1] if records else None):
        wrong.append("the newest entry is not the last one")
    elif newest is not None:
        totals, days = newest.entry.totals, corpus.manifests()
        if (totals.days, totals.records) != (len(days), sum(manifest.records for manifest in days)):
            wrong.append(f"the log's totals are {totals}, the sealed days are {len(days)}")
    return wrong


def collect_and_inspect(world: World) -> dict[str, Any]:
    """Collect garbage, and look whether anything is left that nobody claims."""
    corpus = Corpus(world.open())
    report = collect_garbage(corpus, grace=NOW)
    wrong = [f"{entry.key} is left over" for entry in corpus.store.unfinished()]
    claimed = {entry.key for manifest in corpus.manifests() for entry in manifest.files}
    for manifest in corpus.manifests():
        draft = keys.attempt_folder(manifest.day, manifest.attempt) + keys.MANIFEST
        claimed |= {keys.manifest_key(manifest.day), draft}
    found = [entry.key for entry in corpus.store.entries()]
    for key in found:
        folder, _, _ = key.rpartition("/")
        known = key in claimed or key.startswith(_OF_OTHERS)
        if not known and f"{folder}/{keys.COMMIT}" not in found:
            wrong.append(f"{key} is claimed by nobody and was not collected")
    return inspect(world) | {"orphans": len(report.orphans) + len(report.unfinished), "left": wrong}


def check(world: World, tally: Tally, what: str) -> None:
    """Audit, collect, audit again, each in a child; notes whatever is wrong."""
    for action in (inspect, collect_and_inspect):
        status, found = in_child(partial(action, world))
        if status != 0 or found is None:
            tally.wrong.append(f"{what}: {action.__name__} ended with {status}")
            continue
        tally.audits += 1
        tally.records = max(tally.records, found["records"])
        tally.orphans += found.get("orphans", 0)
        tally.wrong += [f"{what}: {wrong}" for wrong in found["wrong"] + found.get("left", [])]


def restart(world: World, step: str, seed: int, tally: Tally, what: str) -> None:
    """Start the step again, as an operator would, and let it finish."""
    # A producer that was killed goes on with new rounds; the one in flight is lost, and that is all that may be.
    again = seed + 1_000_003 if step == "produce" else seed
    status, _ = in_child(partial(RUN[step], world, again))
    if status != 0:
        tally.wrong.append(f"{what}: the restarted step ended with {status}")


def kill_once(world: World, step: str, seed: int, tally: Tally, *, at: int | None, after: float | None) -> None:
    """Prepare, kill, start again, check."""
    what = f"{step} {f'boundary {at}' if after is None else f'after {after * 1000:.0f} ms'} (seed {seed})"
    prepare(world, step, seed)
    if after is None:
        status, _ = in_child(partial(meet_boundaries, world, step, seed, at))
        tally.boundaries += 1
    else:
        status, _ = in_child(partial(RUN[step], world, seed), kill_after=after)
    if status not in (0, -signal.SIGKILL):
        tally.wrong.append(f"{what}: ended with {status} instead of being killed")
    tally.kills += status == -signal.SIGKILL
    tally.survived += status == 0
    tally.by_step[step] += 1
    restart(world, step, seed, tally, what)
    check(world, tally, what)
    world.kills += 1
    if step == "seal":
        world.day += 1


def kill_together(world: World, seed: int, tally: Tally, moments: Sequence[float]) -> None:
    """Prepare a day; let two sealers and a writer of the log run at once, kill each, start them again, check."""
    what = f"together after {', '.join(f'{moment * 1000:.0f}' for moment in moments)} ms (seed {seed})"
    prepare(world, "seal", seed)
    started = time.monotonic()
    children = [Child(partial(RUN[step], world, seed)) for step in _AT_ONCE]
    for moment, child in sorted(zip(moments, children, strict=True), key=lambda pair: pair[0]):
        time.sleep(max(0.0, started + moment - time.monotonic()))
        child.kill()
    for step, child in zip(_AT_ONCE, children, strict=True):
        status, _ = child.result()
        if status not in (0, -signal.SIGKILL):
            tally.wrong.append(f"{what}: {step} ended with {status} instead of being killed")
        tally.kills += status == -signal.SIGKILL
        tally.survived += status == 0
    for step in dict.fromkeys(_AT_ONCE):
        restart(world, step, seed, tally, what)
    tally.by_step["together"] += 1
    check(world, tally, what)
    world.kills += 1
    world.day += 1


def prepare(world: World, step: str, seed: int) -> None:
    """What a step needs to find."""
    before = {
        "produce": [],
        "seal": ["produce"],
        "enter": [],
        "export": ["produce", "seal"],
        "gc": ["produce", "seal", "produce"],
    }[step]
    for number, earlier in enumerate(before):
        status, _ = in_child(partial(RUN[earlier], world, seed + 7919 * (number + 1)))
        if status != 0:
            raise RuntimeError(f"{earlier} failed before any kill; the store does not work")
        if earlier == "seal":
            world.day += 1


def measure_steps(world: World, seed: int, steps: list[str]) -> tuple[dict[str, float], dict[str, list[str]]]:
    """How long each step takes when nobody interferes, and which boundaries it passes."""
    seconds, names = {}, {}
    for step in steps:
        prepare(world, step, seed)
        started = time.monotonic()
        status, found = in_child(partial(meet_boundaries, world, step, seed, None))
        seconds[step] = time.monotonic() - started
        if status != 0:
            raise RuntimeError(f"{step} failed before any kill; the store does not work")
        names[step] = found
        if step == "seal":
            world.day += 1
        seed += 1
    return seconds, names


@contextmanager
def worlds(kind: str, scratch: Path) -> Iterator[Callable[[], World]]:
    """Makes fresh worlds on the chosen store."""
    made = iter(range(10**9))

    def fresh(open_at: Callable[[str], Store]) -> World:
        number = next(made)
        journal = scratch / f"journal-{number}"
        journal.touch()
        return World(partial(open_at, f"{os.getpid()}-{number}"), journal)

    if kind == "seaweedfs":
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        with seaweedfs(scratch / "seaweedfs") as server:
            server.make_bucket("crash")
            settings = S3Settings(endpoint_url=server.endpoint, region="us-east-1", addressing_style="path")
            yield partial(fresh, lambda name: open_store(f"s3://crash/{name}", settings))
        return
    base = str(scratch / "store") if kind == "directory" else kind.rstrip("/")
    settings = load_settings().s3
    yield partial(fresh, lambda name: open_store(f"{base}/{name}", settings))


def run_synthetic(options: argparse.Namespace, fresh: Callable[[], World], tally: Tally) -> None:
    """Boundaries first, then random moments."""
    chance = random.Random(options.seed)
    # Imported before any fork: loading them takes longer than most steps.
    heavy = ("datasets", "duckdb", "matplotlib.pyplot", "mlcroissant") if "export" in options.steps else ()
    for module in (*heavy, "bittensor.sp_core", "boto3", "pyarrow.dataset"):
        importlib.import_module(module)
    make_round(0)
    # In both modules, since one imports it from the other; children inherit it.
    for module in (log_entry, log_module):
        vars(module)["TILE"] = _TILE
    chosen = [step for step in STEPS if step in options.steps.split(",")]
    # Its writers are measured one by one.
    steps = [step for step in STEPS if step in RUN and (step in chosen or (step in _AT_ONCE and "together" in chosen))]
    seconds, names = measure_steps(fresh(), options.seed, steps)
    for step in steps:
        print(f"{step}: {seconds[step] * 1000:.0f} ms, {len(names[step])} boundaries, {len(set(names[step]))} kinds")
    plan: list[tuple[str, int | None]] = [
        (step, at) for step in steps if step in chosen for at in distinct(names[step], options.boundaries)
    ]
    plan += [(step, None) for step in chance.choices(chosen, [_WEIGHTS[step] for step in chosen], k=options.kills)]
    world = fresh()
    for number, (step, at) in enumerate(plan):
        if world.kills >= _KILLS_A_CORPUS:
            world = fresh()
        seed = options.seed + 100 * (number + 1)
        if step == "together":
            # Slower than alone, and the last may finish.
            moments = [chance.uniform(0, 2 * seconds[writer]) for writer in _AT_ONCE]
            kill_together(world, seed, tally, moments)
        else:
            after = None if at is not None else chance.uniform(0, 1.1 * seconds[step])
            kill_once(world, step, seed, tally, at=at, after=after)
        if number % 20 == 19:
            print(f"{number + 1} of {len(plan)} kills, {len(tally.wrong)} faults", flush=True)


def run_real(options: argparse.Namespace, world: World, tally: Tally, url: str) -> None:
    """Kill the `perturb` command itself at random moments, and check as before.

    A producer is killed at a random moment after its first commit: before that there is nothing to lose.
    """
    chance = random.Random(options.seed)
    perturb = str(Path(sys.executable).parent / "perturb")
    environment = os.environ | {"PERTURB_STORE": url}
    day = time.strftime("%Y-%m-%d", time.gmtime())
    commands = {
        "produce": [perturb, "produce", "--continuous", "--local-miners", "2"],
        "seal": [perturb, "seal", "--early", "--day", day],
        "export": [perturb, "export", "--tier", "research"],
    }
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for number in range(options.kills):
        step = tuple(commands)[number % 3]
        before = _rounds(world)
        process = subprocess.Popen(commands[step], **quiet)  # type: ignore[call-overload]
        deadline = time.monotonic() + 300
        while step == "produce" and len(_rounds(world)) == len(before) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(chance.uniform(0, 20 if step == "produce" else 40))
        process.send_signal(signal.SIGKILL)
        process.wait()
        tally.kills += 1
        tally.by_step[step] += 1
        audited = subprocess.run(
            [perturb, "audit", url, "--no-deep", "--json"], env=environment, capture_output=True, text=True, check=False
        )
        tally.audits += 1
        now = _rounds(world)
        if audited.returncode != 0:
            tally.wrong.append(f"{step}: audit exits with {audited.returncode}: {audited.stdout[-300:]}")
        if lost := before - now:
            tally.wrong.append(f"{step}: {len(lost)} rounds are lost")
        print(f"real {step}: {len(now)} rounds, audit exits with {audited.returncode}", flush=True)


def _rounds(world: World) -> set[str]:
    """Ids of all rounds, live or sealed."""
    corpus = Corpus(world.open())
    sealed = {round_id for manifest in corpus.manifests() for round_id in corpus.claims(manifest)}
    return sealed | {ref.round_id for ref in corpus.live_rounds()}


def main() -> None:
    """Run, print what was seen, and the JSON line; exits 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills at random moments")
    parser.add_argument("--boundaries", type=int, default=40, help="kills at boundaries, for each step at most")
    parser.add_argument("--store", default="directory", help="directory, seaweedfs, or a URL")
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them to kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="kill the perturb command itself instead")
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    tally = Tally()
    scratch = Path(tempfile.mkdtemp(dir=options.scratch))
    started = time.monotonic()
    try:
        with worlds(options.store, scratch) as fresh:
            if options.real:
                world = fresh()
                run_real(options, world, tally, world.open().url)
            else:
                run_synthetic(options, fresh, tally)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for wrong in tally.wrong[:50]:
        print("WRONG", wrong)
    result = {
        "store": options.store,
        "kills": tally.kills,
        "at_boundaries": tally.boundaries,
        "finished_before_the_kill": tally.survived,
        "by_step": dict(tally.by_step),
        "audits": tally.audits,
        "orphans_collected": tally.orphans,
        "faults": len(tally.wrong),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(result))
    raise SystemExit(1 if tally.wrong else 0)


if __name__ == "__main__":
    main()
