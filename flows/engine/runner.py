"""The task runner that the settings name: threads on one machine, Dask or Ray where one machine is not enough.

Tasks on workers are given references (a store's URL, days, record ids). Workers read and write the store themselves, so
they need the same settings in their environment, and nothing large travels through the cluster's scheduler.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from perturb.flows.engine.signals import shielded_from_sigint
from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import Settings


def worker_count(settings: Settings) -> int:
    """Return the number of processes that work at once: the setting, or this machine's cores."""
    return settings.runner_workers or os.cpu_count() or 1


Submit = Callable[..., PrefectFuture[Any]]
"""`submit(task, **parameters)`: a run of the task on some worker, as a future."""


@contextmanager
def workers(settings: Settings) -> Iterator[Submit]:
    """Yield the workers of the runner that the settings name, for use in a flow or a task; they last as the block does.

    This starts no flow, because a flow ends up to a second late (Prefect joins its heartbeat's thread). Raises
    SettingsError where the runner's package is missing or no scheduler answers at `runner_address`.
    """
    with task_runner(settings) as runner:
        if settings.runner == "dask":
            _connect(runner, settings.runner_address)
        yield lambda task, **parameters: runner.submit(task, parameters=parameters)


def _connect(runner: Any, address: str | None) -> None:
    """Connect now, and start a local cluster with SIGINT blocked so that Ctrl-C does not kill work in progress."""
    try:
        shielded_from_sigint(lambda: runner.client)
    except OSError as error:
        raise SettingsError(
            f"no Dask scheduler answers at runner_address = {address!r} ({error}); start one with `dask scheduler`, or "
            f"leave runner_address unset, and a cluster is started here"
        ) from error


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """Return a new runner of the kind that the settings name. Raises SettingsError where its extra is not installed."""
    workers = worker_count(settings)
    if settings.runner == "threads":
        runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)
        return runner
    try:
        return _dask(settings, workers) if settings.runner == "dask" else _ray(settings, workers)
    except ImportError as error:
        raise SettingsError(
            f"runner = {settings.runner!r} needs a package that is not installed ({error.name}); "
            f"pip install -c constraints.txt 'perturb[{settings.runner}]', or set runner to 'threads'"
        ) from error


def _dask(settings: Settings, workers: int) -> TaskRunner[Any]:
    import dask
    from distributed.security import Security
    from prefect_dask.task_runners import DaskTaskRunner

    # By default Dask's workers return memory so early that verification takes twice as long: glibc then maps each image
    # again. https://distributed.dask.org/en/stable/worker-memory.html#automatically-trim-memory
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None})
    # One thread per process: torch and Arrow have threads of their own, and a process has one copy of the models.
    kwargs = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    if settings.runner_address:
        # Certificates for a scheduler that asks for them come from Dask's own configuration.
        chosen: dict[str, Any] = {"address": settings.runner_address}
    else:
        # Whoever can connect to a scheduler runs code in its workers. A key pair that is drawn for this run and stays
        # in memory keeps all others out.
        security = Security.temporary()  # type: ignore[no-untyped-call]
        cluster = kwargs | {"security": security, "protocol": "tls://"}
        chosen = {"cluster_kwargs": cluster, "client_kwargs": {"security": security}}
    runner: TaskRunner[Any] = DaskTaskRunner(**chosen)
    return runner


def _ray(settings: Settings, workers: int) -> TaskRunner[Any]:
    from prefect_ray.task_runners import RayTaskRunner

    own = {"num_cpus": workers, "include_dashboard": False}
    address = settings.runner_address
    runner: TaskRunner[Any] = RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=own)
    return runner
