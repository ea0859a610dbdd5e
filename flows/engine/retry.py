"""Which failures are worth a second try."""

from typing import Any

from perturb.schemas.errors import PerturbError, StoreError, SubnetError


def when_out_of_reach(_task: Any, _run: Any, state: Any) -> bool:
    """Retries what a store or chain out of reach ended; a wrong argument or a refused record stays wrong."""
    return isinstance(state.result(raise_on_failure=False), StoreError | SubnetError)


def when_not_ours(_task: Any, _run: Any, state: Any) -> bool:
    """Retries what a lost worker ended as well; what we refused by name stays refused."""
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StoreError | SubnetError) or not isinstance(failure, PerturbError)
