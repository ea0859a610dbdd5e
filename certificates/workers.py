"""Attacks on many images, in this process or in several; the results don't depend on how many.

Each image is attacked alone, on one thread, from seeds of its own.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from perturb.certificates.measure import CrowdRecord, ImageResult, Measurement, measure_image
from perturb.certificates.subject import load_subject
from perturb.models.classifier import Classifier
from perturb.schemas.image import Pixels
from perturb.schemas.settings import ClassifierSettings

# Starting a process costs as much as a few images.
_WORTH_A_PROCESS = 8


@dataclass(frozen=True)
class SubjectPlace:
    """Where a worker loads the subject from."""

    spec: str
    settings: ClassifierSettings
    classes: Path | None


@dataclass(frozen=True, eq=False)
class Job:
    """One image to measure."""

    index: int
    label: int
    pixels: Pixels
    crowd: tuple[CrowdRecord, ...] = ()


def measure_all(
    jobs: Sequence[Job],
    classifier: Classifier,
    place: SubjectPlace,
    what: Measurement,
    *,
    workers: int,
    deadline: float,
    done: Callable[[Job, ImageResult], None],
) -> None:
    """Call `done` with the result of each job, in the order in which they end.

    After `deadline` (time.monotonic(), in seconds) no further job is begun.
    """
    workers = min(workers, 1 + len(jobs) // _WORTH_A_PROCESS)
    if workers == 1:
        with one_thread():
            for job in jobs:
                if time.monotonic() >= deadline:
                    return
                done(job, _measured(classifier, job, what))
        return
    # This process attacks too: an idle one would hold the memory of a whole network for nothing.
    with (
        one_thread(),
        ProcessPoolExecutor(
            workers - 1, mp_context=get_context("spawn"), initializer=_start, initargs=(place, what, os.getpid())
        ) as processes,
    ):
        waiting: dict[Future[ImageResult], Job] = {}
        left = iter(jobs)
        try:
            while True:
                _fill(processes, waiting, left, workers, deadline)
                own = next(left, None) if time.monotonic() < deadline else None
                if own is not None:
                    done(own, _measured(classifier, own, what))
                elif not waiting:
                    return
                ended = [future for future in waiting if future.done()]
                if own is None and not ended:
                    ended = list(wait(waiting, return_when=FIRST_COMPLETED).done)
                for future in ended:
                    done(waiting.pop(future), future.result())
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as each worker does: the last bits of a gradient depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fill(
    processes: ProcessPoolExecutor,
    waiting: dict[Future[ImageResult], Job],
    left: Iterator[Job],
    most: int,
    deadline: float,
) -> None:
    while len(waiting) < most and time.monotonic() < deadline:
        job = next(left, None)
        if job is None:
            return
        waiting[processes.submit(_work, job)] = job


_loaded: tuple[Classifier, Measurement] | None = None


def _start(place: SubjectPlace, what: Measurement, parent: int) -> None:
    global _loaded
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _loaded = load_subject(place.spec, place.settings, classes=place.classes).classifier, what


def _end_with(parent: int) -> None:
    """End this process when its parent was killed: nobody would take its results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(job: Job) -> ImageResult:
    assert _loaded is not None
    classifier, what = _loaded
    return _measured(classifier, job, what)


def _measured(classifier: Classifier, job: Job, what: Measurement) -> ImageResult:
    return measure_image(classifier, job.pixels, job.label, index=job.index, what=what, crowd=job.crowd)
