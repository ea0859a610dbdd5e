"""Measure a round with N miners: wall time and client CPU on loopback, and the same with the archived Dendrite.

    python benchmarks/collection.py                                   64 and 256 miners, this project
    python benchmarks/collection.py --dendrite-python DIR/bin/python  and bittensor 10.5.0 in the same run, where
        python -m venv DIR && DIR/bin/pip install bittensor==10.5.0   has made that environment
    python benchmarks/collection.py --hostile                         64 miners, 40 of them hostile
    python benchmarks/collection.py --soak 1000                       that many rounds against 8 miners

Miners are this project's own servers with distinct hotkeys, in a few processes. They answer at once with a prepared
image, so the transfer is what is measured. Payload: a real challenge, and a real PNG of its size back. CPU is that of
the client's process alone. The last line is a JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from perturb.schemas.challenge import Challenge, Origin
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import SubnetSettings
from perturb.subnet.keys import development_keypair
from perturb.subnet.transport import collect
from tests.support.tasks import make_task

VALIDATOR = development_keypair("//Validator")
HERE = Path(__file__).resolve()
Results = list[dict[str, float]]
Figures = dict[str, float]


def make_challenge(number: int, *, side: int, photo: Path | None, timeout_ms: int = 30_000) -> Challenge:
    """Return a challenge on a real photograph, `side` pixels square."""
    if photo is None:
        from skimage import data

        image = Image.fromarray(data.astronaut())
    else:
        image = Image.open(photo).convert("RGB")
    short = min(image.size)
    pixels = np.asarray(image.crop((0, 0, short, short)).resize((side, side)))
    task = make_task(pixels, number=number, timeout_ms=timeout_ms)
    origin = Origin(source="sample", source_id="astronaut", clean_confidence=0.9, clean_margin=5.0, judge="none")
    return Challenge("20260101T000000000000Z-00000000", datetime.now(UTC), task, origin, encode_png(pixels))


def perturbed_png(challenge: Challenge) -> bytes:
    """Return each value one level up or down: the largest PNG that an answer usually is."""
    noise = np.random.default_rng(0).choice(np.array([-1, 1]), size=challenge.pixels.shape)
    return encode_png(np.clip(challenge.pixels + noise, 0, 255).astype(np.uint8))


def serve(first: int, count: int, answer_path: str) -> None:
    """Serve `count` miners in one process, a child; print [[hotkey, port], ...]."""
    from perturb.miner.limits import Limits
    from perturb.miner.server import create_app, http_server
    from perturb.miner.validators import ValidatorList

    body = Path(answer_path).read_bytes()

    async def run() -> None:
        roll, serving = [], []
        for number in range(first, first + count):
            keypair = development_keypair(f"//Load/{number}")
            listener = socket.create_server(("127.0.0.1", 0))
            limits = Limits(max_concurrent=8)
            app = create_app(
                lambda task, clean, deadline: body,
                keypair,
                ValidatorList(lambda: frozenset({VALIDATOR.ss58_address})),
                name="load",
                limits=limits,
            )
            server = http_server(app, limits=limits)
            serving.append(asyncio.create_task(server.serve(sockets=[listener])))
            while not server.started:
                await asyncio.sleep(0.001)
            roll.append([keypair.ss58_address, listener.getsockname()[1]])
        print(json.dumps(roll), flush=True)
        await asyncio.gather(*serving)

    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    asyncio.run(run())


@contextmanager
def children(commands: list[list[str]]) -> Iterator[list["subprocess.Popen[str]"]]:
    """Yield processes that end with this context."""
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


@contextmanager
def miners(count: int, answer: Path, *, processes: int) -> Iterator[list[Neuron]]:
    """Yield `count` miners in `processes` processes."""
    share = -(-count // processes)
    starts = range(0, count, share)
    commands = [
        [sys.executable, str(HERE), "--serve", str(start), str(min(share, count - start)), str(answer)]
        for start in starts
    ]
    with children(commands) as running:
        roll = [pair for process in running for pair in json.loads(process.stdout.readline())]  # type: ignore[union-attr]
        yield [Neuron(uid=uid, hotkey=key, endpoint=f"127.0.0.1:{port}") for uid, (key, port) in enumerate(roll)]


def measure(neurons: list[Neuron], *, rounds: int, side: int, photo: Path | None) -> Results:
    """Return the figures of rounds with `neurons`; the first round warms up and is not counted."""
    settings = SubnetSettings(network="local", max_concurrency=256)
    results = []
    for number in range(rounds + 1):
        challenge = make_challenge(number, side=side, photo=photo)
        wall, cpu = time.monotonic(), time.process_time()
        responses = asyncio.run(collect(challenge, neurons, VALIDATOR, settings=settings))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        collected = sum(response.failure is None for response in responses)
        if number:
            results.append({"wall_ms": wall * 1000, "cpu_ms": cpu * 1000, "collected": collected})
    return results


def measure_dendrite(python: str, count: int, *, rounds: int, image: Path, answer: Path, processes: int) -> Results:
    """Return the figures of the same rounds through bittensor 10.5.0, in its own environment."""
    peer = str(HERE.with_name("dendrite_peer.py"))
    share = -(-count // processes)
    port = random.randrange(10_000, 30_000)  # Below the ports that the system assigns to connections.
    commands = [
        [python, peer, "serve", str(port + start), str(min(share, count - start)), str(start), str(answer)]
        for start in range(0, count, share)
    ]
    with children(commands) as running:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit(f"the axons did not start; try `{' '.join(commands[0])}`")
        command = [python, peer, "ask", str(port), str(count), str(rounds), str(image), str(answer)]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    results: Results = json.loads(output.strip().splitlines()[-1])
    return results


def summary(results: Results, count: int) -> dict[str, float]:
    return {
        "wall_ms": round(statistics.median(result["wall_ms"] for result in results), 1),
        "client_cpu_ms_per_miner": round(statistics.median(result["cpu_ms"] for result in results) / count, 3),
        "collected": min(int(result["collected"]) for result in results),
    }


def compare(options: argparse.Namespace) -> Figures:
    """Print the table; return the figures of the largest round."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        challenge = make_challenge(0, side=options.side, photo=options.photo)
        image, answer = Path(folder, "clean.png"), Path(folder, "answer.png")
        image.write_bytes(challenge.png)
        answer.write_bytes(perturbed_png(challenge))
        sizes = f"{len(challenge.png):,} bytes out, {answer.stat().st_size:,} back"
        print(f"payload {sizes}; median of {options.rounds} rounds")
        print(f"{'client':<28}{'miners':>8}{'collected':>11}{'wall ms':>10}{'CPU ms a miner':>16}")
        for count in options.miners:
            with miners(count, answer, processes=options.processes) as neurons:
                ours = summary(measure(neurons, rounds=options.rounds, side=options.side, photo=options.photo), count)
            rows = {"perturb": ours}
            if options.dendrite_python:
                theirs = measure_dendrite(
                    options.dendrite_python,
                    count,
                    rounds=options.rounds,
                    image=image,
                    answer=answer,
                    processes=options.processes,
                )
                rows["bittensor 10.5.0 Dendrite"] = summary(theirs, count)
            for name, row in rows.items():
                print(
                    f"{name:<28}{count:>8}{row['collected']:>11}{row['wall_ms']:>10}{row['client_cpu_ms_per_miner']:>16}"
                )
            figures = {"miners": count, **ours}
            if len(rows) > 1:
                peer = rows["bittensor 10.5.0 Dendrite"]["client_cpu_ms_per_miner"]
                figures["cpu_ratio"] = round(peer / ours["client_cpu_ms_per_miner"], 1)
    return figures


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def endure_hostility(options: argparse.Namespace) -> Figures:
    """Return time, answers and memory of a round with 64 miners, 40 of which are hostile."""
    bad = ["refuses", "hangs", "drips", "redirects", "gzip_bomb", "endless_body", "wrong_signature"]
    bad += ["another_miners_answer", "replays", "wrong_task", "html", "resets", "answers_late", "header_flood"]
    kinds = {kind: 40 // len(bad) + (place < 40 % len(bad)) for place, kind in enumerate(bad)}
    seconds = 5.0
    arguments = [json.dumps(kinds), VALIDATOR.ss58_address, str(seconds)]
    command = [sys.executable, "-m", "tests.support.hostile_miners", *arguments]
    os.environ["PYTHONPATH"] = str(HERE.parent.parent)
    warm = make_challenge(1, side=options.side, photo=options.photo)
    challenge = make_challenge(2, side=options.side, photo=options.photo, timeout_ms=int(seconds * 1000))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.png")
        answer.write_bytes(perturbed_png(challenge))
        with children([command]) as (process,), miners(24, answer, processes=1) as good:
            assert process.stdout is not None
            roll = json.loads(process.stdout.readline())
            del roll["trap"]
            named = ["good"] * 24 + [kind for kind, entries in roll.items() for _ in entries]
            neurons = good + [
                Neuron(uid=24 + place, hotkey=key, endpoint=f"127.0.0.1:{port}")
                for place, (key, port) in enumerate(entry for entries in roll.values() for entry in entries)
            ]
            settings = SubnetSettings(network="local")
            asyncio.run(collect(warm, good, VALIDATOR, settings=settings))
            before, started, cpu = resident_mib(), time.monotonic(), time.process_time()
            responses = asyncio.run(collect(challenge, neurons, VALIDATOR, settings=settings))
            wall, cpu, grown = time.monotonic() - started, time.process_time() - cpu, resident_mib() - before
    reasons: dict[str, Counter[str]] = {}
    for kind, response in zip(named, responses, strict=True):
        reasons.setdefault(kind, Counter())[str(response.failure or "answered")] += 1
    for kind, counts in reasons.items():
        print(f"{kind:<24}{', '.join(f'{reason} {count}' for reason, count in counts.items())}")
    return {
        "miners": len(neurons),
        "collected": sum(response.failure is None for response in responses),
        "deadline_s": seconds,
        "wall_s": round(wall, 2),
        "client_cpu_s": round(cpu, 2),
        "memory_grown_mib": round(grown, 1),
    }


def soak(options: argparse.Namespace) -> Figures:
    """Return counts of many rounds with 8 miners, each committed: nothing may grow, be lost or be there twice."""
    from perturb.schemas.settings import S3Settings
    from perturb.schemas.verdict import Score, Verdict
    from perturb.sinks.corpus.corpus import Corpus
    from perturb.sinks.stores.open import open_store
    from perturb.tasks.corpus.commit import commit_round

    first = make_challenge(0, side=options.side, photo=options.photo)
    settings = SubnetSettings(network="local")
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.png")
        answer.write_bytes(perturbed_png(first))
        identity = pixel_identity(np.asarray(Image.open(answer)))
        corpus = Corpus(open_store(f"{folder}/store", S3Settings()))
        with miners(8, answer, processes=options.processes) as neurons:
            started = time.monotonic()
            for number in range(options.soak):
                challenge = replace(
                    first,
                    round_id=f"20260101T{number:012d}Z-{number:08x}",
                    task=first.task.model_copy(update={"task_salt": f"{number:032x}"}).as_task(),
                )
                responses = asyncio.run(collect(challenge, neurons, VALIDATOR, settings=settings))
                verdicts = [
                    Verdict(
                        outcome=response.failure or "accepted", perturbed_sha256=None if response.failure else identity
                    )
                    for response in responses
                ]
                scores = [Score(quality=1, speed=1, score=1, policy="soak-1")] * len(responses)
                commit_round(
                    corpus,
                    challenge,
                    responses,
                    verdicts,
                    scores,
                    netuid=26,
                    block=None,
                    validator_hotkey=VALIDATOR.ss58_address,
                )
                if (number + 1) % max(1, options.soak // 10) == 0:
                    marks.append((resident_mib(), len(list(Path("/proc/self/fd").iterdir()))))
                    print(f"round {number + 1:>6}: {marks[-1][0]:8.1f} MiB resident, {marks[-1][1]:>4} open files")
            seconds = time.monotonic() - started
        table = corpus.table(columns=["task_id", "miner_hotkey", "record_id", "outcome", "miner_signature"])
    rows = table.to_pylist()
    return {
        "rounds": options.soak,
        "records": len(rows),
        "expected": options.soak * 8,
        "accepted": sum(row["outcome"] == "accepted" for row in rows),
        "distinct_records": len({row["record_id"] for row in rows}),
        "distinct_answers": len({(row["task_id"], row["miner_hotkey"]) for row in rows}),
        "distinct_signatures": len({row["miner_signature"] for row in rows}),
        "round_ms": round(seconds / options.soak * 1000, 1),
        "memory_grown_mib": round(marks[-1][0] - marks[0][0], 1),
        "files_grown": marks[-1][1] - marks[0][1],
    }


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--miners", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="that the miners are spread over")
    parser.add_argument("--side", type=int, default=224, help="pixels; 456 is EfficientNet-B5's input")
    parser.add_argument("--photo", type=Path, help="instead of scikit-image's astronaut")
    parser.add_argument("--dendrite-python", help="interpreter of an environment with bittensor 10.5.0")
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--soak", type=int, default=0, metavar="ROUNDS")
    options = parser.parse_args()
    run = endure_hostility if options.hostile else soak if options.soak else compare
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
