"""Which failures are worth a second try."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from perturb.schemas.errors import PerturbError, StoreError, SubnetError


def when_out_of_reach(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a store or chain that cannot be reached ended the task; other failures would repeat."""
    return isinstance(state.result(raise_on_failure=False), StoreError | SubnetError)


def when_not_ours(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a lost worker, store or chain ended the task; this project's other errors would repeat."""
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StoreError | SubnetError) or not isinstance(failure, PerturbError)
