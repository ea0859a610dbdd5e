"""Reference miners on this machine: one process each, on loopback ports, with a roster that names them.

    with start_local_miners(5, settings=settings) as miners:
        settings = settings.model_copy(update={"subnet": miners.subnet})

The processes end with the context, and also when this process is killed outright: each of them watches a pipe that
only this process holds open, and its parent's id (see `perturb.miner.local_fork`).
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import perturb.schemas.errors
from perturb.schemas.errors import PerturbError, SettingsError, SubnetError
from perturb.schemas.import_root import import_root
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import Settings, SubnetSettings
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.roster import write_roster

log = logging.getLogger(__name__)

# In this order; `bad` misbehaves on purpose.
LOCAL_ATTACKS = ("pgd", "fgsm", "mi-fgsm", "grid", "bad")
HOST = "127.0.0.1"
_START_SECONDS = 180.0
_STOP_SECONDS = 8.0


@dataclass(frozen=True)
class LocalMiners:
    """Miners that run. `subnet` are settings that find them; `log` collects what they say."""

    attacks: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    pids: tuple[int, ...]
    roster: Path
    subnet: SubnetSettings
    log: Path


@contextmanager
def start_local_miners(
    attacks: int | Sequence[str] = LOCAL_ATTACKS,
    *,
    settings: Settings,
    ports: Sequence[int] | None = None,
    budget_seconds: float = 12.0,
    folder: Path | None = None,
) -> Iterator[LocalMiners]:
    """Start miners, wait until all of them answer, yield them, and end them.

    `attacks` are names of `perturb.attacks` or "bad", or a number: that many of `LOCAL_ATTACKS`. Without `ports` the
    system chooses free ones. `folder` keeps roster and log; without it they are removed at the end. The miners obey
    the validator that `settings` describe, and attack its classifier on the CPU.

    Raises SettingsError for a number or port that can't be had, ModelError where the classifier can't be loaded.
    """
    names = _chosen(attacks)
    if ports is not None and len(ports) != len(names):
        raise SettingsError(f"{len(ports)} ports for {len(names)} miners; give one port for each miner")
    subnet = settings.subnet.model_copy(update={"network": LOCAL_NETWORK})
    with tempfile.TemporaryDirectory(prefix="perturb-miners-") as temporary:
        home = folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        roster, log_file = home / "roster.toml", home / "miners.log"
        validators = [load_keypair(subnet).ss58_address]
        plan = {
            "parent": os.getpid(),
            "host": HOST,
            "attacks": names,
            "ports": list(ports or [0] * len(names)),
            "budget_seconds": budget_seconds,
            "classifier": settings.classifier.model_copy(update={"device": "cpu"}).model_dump(mode="json"),
            "validators": validators,
        }
        nursery = _spawn(plan, log_file)
        try:
            born = _await_birth(nursery, log_file)
            neurons = tuple(
                Neuron(uid=uid, hotkey=miner["hotkey"], endpoint=f"{HOST}:{miner['port']}")
                for uid, miner in enumerate(born)
            )
            write_roster(roster, neurons, validators=validators)
            yield LocalMiners(
                attacks=names,
                neurons=neurons,
                pids=tuple(miner["pid"] for miner in born),
                roster=roster,
                subnet=subnet.model_copy(update={"roster": roster}),
                log=log_file,
            )
        finally:
            _end(nursery)


def _chosen(attacks: int | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(attacks, int):
        return tuple(attacks)
    if not 1 <= attacks <= len(LOCAL_ATTACKS):
        raise SettingsError(
            f"{attacks} local miners can't be started; accepted: 1 to {len(LOCAL_ATTACKS)} ({', '.join(LOCAL_ATTACKS)})"
        )
    return LOCAL_ATTACKS[:attacks]


def _spawn(plan: dict[str, Any], log_file: Path) -> "subprocess.Popen[bytes]":
    # The packages are found where they were found here, wherever this process was started.
    roots = [import_root(), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(roots)}
    with log_file.open("ab") as log_stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "perturb.miner.local_fork"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_stream,
            env=environment,
            # A Ctrl-C at the terminal is ours to handle: the miners end with their pipe.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # It died at birth; its log says why, which is read next.
    return process


def _await_birth(nursery: "subprocess.Popen[bytes]", log_file: Path) -> list[dict[str, Any]]:
    line = _read_line(nursery, seconds=_START_SECONDS)
    if not line:
        tail = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise SubnetError(f"local miners did not start; their last words: {tail[0][:300]}; start fewer of them")
    said = json.loads(line)
    if "error" in said:
        kind = getattr(perturb.schemas.errors, said["kind"], PerturbError)
        raise kind(said["error"])
    miners: list[dict[str, Any]] = said["miners"]
    return miners


def _read_line(process: "subprocess.Popen[bytes]", *, seconds: float) -> bytes:
    """The child's one line; empty where it ended or said nothing in time."""
    import selectors

    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(timeout=0.5):
                return process.stdout.readline()
    return b""


def _end(nursery: "subprocess.Popen[bytes]") -> None:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.close()
    nursery.stdout.close()
    try:
        nursery.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("local miners did not end within %g s and were killed", _STOP_SECONDS)
        nursery.kill()
        nursery.wait()
