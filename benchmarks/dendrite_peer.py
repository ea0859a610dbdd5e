"""The archived way, as a peer for benchmarks/collection.py: bittensor 10.5.0's Dendrite asking its Axons.

Runs in an environment of its own, which shares nothing with this project's:

    python -m venv dendrite && dendrite/bin/pip install bittensor==10.5.0

    dendrite_peer.py serve PORT COUNT FIRST ANSWER         COUNT axons from PORT on; ends with its stdin
    dendrite_peer.py ask PORT COUNT ROUNDS IMAGE ANSWER    prints one JSON object
"""

import asyncio
import base64
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

# Its own log lines and argument parser would cost time and take our arguments.
arguments, sys.argv = sys.argv[1:], sys.argv[:1]

import bittensor  # noqa: E402
from bittensor.utils import networking  # noqa: E402
from bittensor_wallet import Keypair, Wallet  # noqa: E402

# It asks services on the internet for this machine's address.
networking.get_external_ip = lambda: "203.0.113.9"
bittensor.logging.off()


class Challenge(bittensor.Synapse):
    """A task and its image, as JSON with base64 inside: what synapses carry."""

    task: str = ""
    image: str = ""
    perturbed: str | None = None


def wallet(uri: str) -> Wallet:
    """A wallet on disk with development keys."""
    made = Wallet(name=uri.strip("/").replace("/", "-"), hotkey="default", path=tempfile.mkdtemp())
    keypair = Keypair.create_from_uri(uri)
    made.set_hotkey(keypair, encrypt=False, overwrite=True)
    made.set_coldkey(keypair, encrypt=False, overwrite=True)
    made.set_coldkeypub(keypair, overwrite=True)
    return made


def serve(port: int, count: int, first: int, answer: str) -> None:
    """Axons that answer at once with the same image."""
    body = base64.b64encode(Path(answer).read_bytes()).decode()

    def forward(synapse: Challenge) -> Challenge:
        synapse.perturbed = body
        return synapse

    for number in range(count):
        axon = bittensor.Axon(
            wallet=wallet(f"//Axon/{first + number}"), port=port + number, ip="127.0.0.1", external_ip="127.0.0.1"
        )
        axon.attach(forward_fn=forward)
        axon.start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


async def ask(port: int, count: int, rounds: int, image: str, answer: str) -> None:
    """Rounds against `count` axons; CPU is this process' alone, all its threads."""
    me = wallet("//Validator")
    axons = [
        bittensor.AxonInfo(
            version=1,
            ip="127.0.0.1",
            port=port + number,
            ip_type=4,
            hotkey=Keypair.create_from_uri(f"//Axon/{number}").ss58_address,
            coldkey=me.coldkeypub.ss58_address,
        )
        for number in range(count)
    ]
    picture = base64.b64encode(Path(image).read_bytes()).decode()
    expected = base64.b64encode(Path(answer).read_bytes()).decode()
    results = []
    for turn in range(rounds + 1):
        synapse = Challenge(task=f"{turn:032x}", image=picture)
        async with bittensor.Dendrite(wallet=me) as dendrite:
            wall, cpu = time.monotonic(), time.process_time()
            answers = await dendrite.forward(axons=axons, synapse=synapse, timeout=60, deserialize=False)
            wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        collected = sum(answer.perturbed == expected for answer in answers)
        if turn:  # The first one warms up.
            results.append({"wall_ms": wall * 1000, "cpu_ms": cpu * 1000, "collected": collected})
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    mode, port, count, third, *paths = arguments
    if mode == "serve":
        threading.excepthook = lambda _: os._exit(1)
        serve(int(port), int(count), int(third), *paths)
    else:
        asyncio.run(ask(int(port), int(count), int(third), *paths))
