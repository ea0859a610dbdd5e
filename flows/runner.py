"""The task runner as a setting: threads on one machine, Dask or Ray where one machine is not enough.

What fans out is named by references (a store's URL, days, record ids); workers read and write the store themselves,
so they need the same settings in their environment, and nothing large travels through the cluster's scheduler.
"""

import os
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from schemas.errors import SettingsError
from schemas.settings import Settings


def worker_count(settings: Settings) -> int:
    """Processes that work at once, as far as this side knows."""
    return settings.runner_workers or os.cpu_count() or 1


def task_runner(settings: Settings) -> TaskRunner[Any]:
    """A fresh runner of the kind that the settings name. Raises SettingsError where its extra is not installed."""
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
    from prefect_dask.task_runners import DaskTaskRunner

    # One thread a process: torch and Arrow have threads of their own, and the models are one to a process.
    kwargs = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    chosen: dict[str, Any] = (
        {"address": settings.runner_address} if settings.runner_address else {"cluster_kwargs": kwargs}
    )
    runner: TaskRunner[Any] = DaskTaskRunner(**chosen)
    return runner


def _ray(settings: Settings, workers: int) -> TaskRunner[Any]:
    from prefect_ray.task_runners import RayTaskRunner

    own = {"num_cpus": workers, "include_dashboard": False}
    address = settings.runner_address
    runner: TaskRunner[Any] = RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=own)
    return runner
