"""Reference miners on this machine: one process each, on loopback ports, with a roster that names them.

    with start_local_miners(5, settings=settings) as miners:
        settings = settings.model_copy(update={"subnet": miners.subnet})

The processes end with the context, and also when this process is killed outright: each of them watches a pipe that
only this process holds open, and its parent's id (see `perturb.miner.local_fork`).
"""

import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import perturb.schemas.errors
from perturb.schemas.errors import PerturbError, SettingsError, SubnetError
from perturb.schemas.import_root import import_root
from perturb.schemas.neuron import Neuron
from perturb.schemas.settings import Settings, SubnetSettings
from perturb.subnet.keys import LOCAL_NETWORK, load_keypair
from perturb.subnet.roster import write_roster

logger = logging.getLogger(__name__)

# Started in this order; `bad` sends invalid answers on purpose.
LOCAL_ATTACKS = ("pgd", "fgsm", "mi-fgsm", "grid", "bad")
HOST = "127.0.0.1"
_START_SECONDS = 180.0
_STOP_SECONDS = 8.0


@dataclass(frozen=True)
class LocalMiners:
    """Miners that run. `subnet` are settings under which they are found; `log` is the file of their log."""

    attacks: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    pids: tuple[int, ...]
    roster: Path
    subnet: SubnetSettings
    log: Path


class MinerPlan(TypedDict):
    """What the fork server is told: one JSON line on its standard input."""

    parent: int
    host: str
    attacks: tuple[str, ...]
    ports: list[int]
    budget_seconds: float
    classifier: dict[str, object]
    targets: str
    s3: dict[str, object]
    cache: str
    validators: list[str]


class MinerReport(TypedDict):
    """One miner that runs, as the fork server reports it."""

    pid: int
    port: int
    hotkey: str


class StartingMiners:
    """Miners whose processes were started and that may not answer yet."""

    def __init__(
        self, attacks: tuple[str, ...], subnet: SubnetSettings, plan: MinerPlan, *, roster: Path, log_file: Path
    ):
        self._attacks, self._subnet = attacks, subnet
        self._roster, self._log, self._validators = roster, log_file, plan["validators"]
        self._fork_server = _start_fork_server(plan, log_file)
        self._awaited = False

    def wait(self, tell: Callable[[str], None] = lambda _: None) -> LocalMiners:
        """Return the miners when all of them answer; `tell` receives "2/5" and the like on the way.

        Raises SettingsError for a port that is in use, ModelError where the classifier cannot be loaded, SubnetError
        where the miners do not start.
        """
        self._awaited = True
        reported = _await_miners(self._fork_server, self._log, tell)
        neurons = tuple(
            Neuron(uid=uid, hotkey=miner["hotkey"], endpoint=f"{HOST}:{miner['port']}")
            for uid, miner in enumerate(reported)
        )
        write_roster(self._roster, neurons, validators=self._validators)
        return LocalMiners(
            attacks=self._attacks,
            neurons=neurons,
            pids=tuple(miner["pid"] for miner in reported),
            roster=self._roster,
            subnet=self._subnet.model_copy(update={"roster": self._roster}),
            log=self._log,
        )

    def end(self) -> None:
        """End all miners, whether they answer yet or not."""
        process = self._fork_server
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        if not self._awaited:
            process.stdout.close()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("local miners did not end within %g s and were killed", _STOP_SECONDS)
            process.kill()
            process.wait()


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
    the validator that `settings` describe, and attack its classifier and the targets of its store on the CPU.

    Raises SettingsError for a number or port that cannot be used, ModelError where the classifier cannot be loaded,
    SubnetError where the miners do not start.
    """
    with starting_local_miners(
        attacks, settings=settings, ports=ports, budget_seconds=budget_seconds, folder=folder
    ) as starting:
        yield starting.wait()


@contextmanager
def starting_local_miners(
    attacks: int | Sequence[str] = LOCAL_ATTACKS,
    *,
    settings: Settings,
    ports: Sequence[int] | None = None,
    budget_seconds: float = 12.0,
    folder: Path | None = None,
) -> Iterator[StartingMiners]:
    """Start miners as `start_local_miners`, and yield them at once: the caller does other work and then waits."""
    names = _chosen(attacks)
    if ports is not None and len(ports) != len(names):
        raise SettingsError(f"{len(ports)} ports for {len(names)} miners; give one port for each miner")
    subnet = settings.subnet.model_copy(update={"network": LOCAL_NETWORK})
    with tempfile.TemporaryDirectory(prefix="perturb-miners-") as temporary:
        home = folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        plan: MinerPlan = {
            "parent": os.getpid(),
            "host": HOST,
            "attacks": names,
            "ports": list(ports or [0] * len(names)),
            "budget_seconds": budget_seconds,
            "classifier": settings.classifier.model_copy(update={"device": "cpu"}).model_dump(mode="json"),
            "targets": settings.store_name,
            "s3": settings.s3.model_dump(mode="json"),
            "cache": str(settings.cache),
            "validators": [load_keypair(subnet).ss58_address],
        }
        starting = StartingMiners(names, subnet, plan, roster=home / "roster.toml", log_file=home / "miners.log")
        try:
            yield starting
        finally:
            starting.end()


def _chosen(attacks: int | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(attacks, int):
        return tuple(attacks)
    if not 1 <= attacks <= len(LOCAL_ATTACKS):
        raise SettingsError(
            f"{attacks} local miners cannot be started; "
            f"accepted: 1 to {len(LOCAL_ATTACKS)} ({', '.join(LOCAL_ATTACKS)})"
        )
    return LOCAL_ATTACKS[:attacks]


def _start_fork_server(plan: MinerPlan, log_file: Path) -> "subprocess.Popen[bytes]":
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
            # A Ctrl-C at the terminal is for this process to handle: the miners end with their pipe.
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(plan).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # It ended at once; `_await_miners` reads the reason from its log.
    return process


def _await_miners(
    fork_server: "subprocess.Popen[bytes]", log_file: Path, tell: Callable[[str], None]
) -> list[MinerReport]:
    for line in _lines(fork_server, seconds=_START_SECONDS):
        said = json.loads(line)
        if "error" in said:
            kind = getattr(perturb.schemas.errors, said["kind"], PerturbError)
            raise kind(said["error"])
        if "miners" in said:
            miners: list[MinerReport] = said["miners"]
            return miners
        tell(f"{said['running']}/{said['of']} answer")
    last = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["(empty)"]
    raise SubnetError(f"local miners did not start; last line of their log: {last[0][:300]}; start fewer of them")


def _lines(process: "subprocess.Popen[bytes]", *, seconds: float) -> Iterator[bytes]:
    """Yield the lines that the child writes, until it ends or `seconds` have passed."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    with process.stdout as output, selectors.DefaultSelector() as selector:
        # Unbuffered reads: a line that waits in a buffer would not be selected.
        os.set_blocking(output.fileno(), False)
        selector.register(output, selectors.EVENT_READ)
        read = b""
        while time.monotonic() < deadline:
            if not selector.select(timeout=0.5):
                continue
            block = os.read(output.fileno(), 65536)
            if not block:
                return
            *lines, read = (read + block).split(b"\n")
            yield from lines
