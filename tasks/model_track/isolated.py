"""Measuring a stranger's weights in a process of its own, which may be ended, run out of memory, or die.

Weights are safetensors, so that no code is in them. What is left to fear is what they cost: the process has a limit of
memory and of time, and what it returns is text that is checked here.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import ValidationError

from perturb.models.classifier import Classifier, load_classifier
from perturb.schemas.errors import ModelError
from perturb.schemas.report_card import ReportCard
from perturb.schemas.settings import ClassifierSettings, WeightsSpec
from perturb.sinks.targets.registry import is_safetensors
from perturb.tasks.targets.measure import HeldOut, measure

_CARD, _REFUSED, _TOLD = b"c", b"r", b"t"
_MOST_BYTES = 2**22
_FILE = "weights.safetensors"
Tell = Callable[[str], None]


class CandidateRefused(ValueError):
    """A network that was not measured; the message gives the reason."""


@dataclass(frozen=True, eq=False)
class Examination:
    """What networks are measured with: the first generation, the photographs, how many of these are attacked anew.

    `seed` is that of the fresh attacks.
    """

    first: ClassifierSettings
    photographs: Sequence[HeldOut]
    attacked: int
    seed: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits of the process: `seconds` until it is ended, `memory_bytes` beyond what it has when it starts."""

    seconds: float
    memory_bytes: int


def measure_against_first(network: Classifier, examination: Examination, *, tell: Tell = lambda _: None) -> ReportCard:
    """Return the report card of a network, compared with the first generation. `tell` gets what is measured next."""
    first = load_classifier(examination.first)
    return measure(
        network,
        parent=first,
        first=first,
        photographs=examination.photographs,
        attacked=examination.attacked,
        seed=examination.seed,
        tell=tell,
    )


def measure_isolated(
    weights: bytes, examination: Examination, limits: Limits, *, tell: Tell = lambda _: None
) -> ReportCard:
    """Return the report card of a file of weights of the first generation's architecture.

    `tell` gets what is measured next, in words of the process that measures.

    Raises CandidateRefused where it is no safetensors file, does not fit the architecture, or ends the process.
    """
    if not is_safetensors(weights):
        raise CandidateRefused("the file is not safetensors; pickles and other forms are not accepted")
    with tempfile.TemporaryDirectory(prefix="perturb-candidate-") as folder:
        path = Path(folder) / _FILE
        path.write_bytes(weights)
        answer = _ask(path, examination, limits, tell)
    kind, text = answer[:1], answer[1:].decode(errors="replace")
    if kind == _REFUSED:
        raise CandidateRefused(text)
    try:
        return ReportCard.model_validate_json(text)
    except ValidationError as error:
        raise CandidateRefused("the process that measured the network returned no report card") from error


def _ask(path: Path, examination: Examination, limits: Limits, tell: Tell) -> bytes:
    context = get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    # A daemon ends with this process.
    process = context.Process(target=_answer, args=(sending, path, examination, limits), daemon=True)
    process.start()
    sending.close()
    ends = time.monotonic() + limits.seconds
    try:
        while True:
            try:
                if (left := ends - time.monotonic()) <= 0 or not receiving.poll(left):
                    raise CandidateRefused(f"measuring took more than {limits.seconds:g} s")
                answer = receiving.recv_bytes(_MOST_BYTES)
            except (EOFError, OSError) as error:
                process.join(5)
                raise CandidateRefused(
                    f"the process that measured the network ended with {process.exitcode}, perhaps for want of memory"
                ) from error
            if answer[:1] != _TOLD:
                return answer
            # Not where errors are caught: that nobody reads what is told is no fault of the candidate.
            tell(answer[1:].decode(errors="replace"))
    finally:
        process.kill()
        process.join()
        receiving.close()


def _answer(sending: Connection, path: Path, examination: Examination, limits: Limits) -> None:
    _limit(limits)

    def tell(text: str) -> None:
        sending.send_bytes(_TOLD + text.encode())

    try:
        wanted = examination.first.model_copy(update={"weights": WeightsSpec("file", path=path)})
        card = measure_against_first(load_classifier(wanted), examination, tell=tell)
        answer = _CARD + card.model_dump_json().encode()
    except ModelError as error:
        # The settings are not the miner's: what remains of the advice is the architecture.
        reason = str(error).replace(f"weights file {path}", "the file")
        advice = f"validators measure {examination.first.name} only"
        answer = _REFUSED + reason.replace("check classifier.name and classifier.weights", advice).encode()
    except (MemoryError, RuntimeError) as error:
        # torch reports a failed allocation as RuntimeError.
        answer = _REFUSED + f"measuring failed: {type(error).__name__}: {error}".splitlines()[0][:500].encode()
    sending.send_bytes(answer)


def _limit(limits: Limits) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    most = used + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # Where the parent is killed, nothing else would end this process.
    seconds = int(limits.seconds * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
