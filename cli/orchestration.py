"""Whether a command runs its step here, or as the Prefect flow that a schedule runs.

A flow needs a server. Where none is configured Prefect starts one for each command, which takes longer than most steps.
"""

from perturb.flows.engine.prefect_settings import server_is_configured


def runs_as_flow(asked: bool | None, *, runner: str = "threads") -> bool:
    """Return whether to run the flow: as `asked` by --flow or --no-flow, else where a Prefect server is configured.

    A step that can use a task runner is given the `runner` setting; dask and ray are reached through the flow only.
    Where the answer is yes, a server answers: one that is configured was asked, else a temporary one was started.
    Raises SettingsError where that failed.
    """
    if asked is False or not (asked or runner != "threads" or server_is_configured()):
        return False
    from perturb.flows.engine.prefect_server import check_server

    check_server()
    return True
