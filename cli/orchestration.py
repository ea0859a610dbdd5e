"""Whether a command runs its step here, or as the Prefect flow that a schedule runs.

A flow needs a server. Where none is configured Prefect starts one for each command, which takes longer than most steps.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perturb.tasks.monitor.doctor import Check


def runs_as_flow(asked: bool | None, *, runner: str = "threads") -> bool:
    """Return whether to run the flow: as `asked` by --flow or --no-flow, else where a Prefect server is configured.

    A step that can use a task runner is given the `runner` setting; dask and ray are reached through the flow only.
    Where the answer is yes, a server answers: one that is configured was asked, else a temporary one was started.
    Raises SettingsError where that failed.
    """
    if asked is False:
        return False
    from perturb.flows.engine.prefect_settings import server_is_configured

    if not (asked or runner != "threads" or server_is_configured()):
        return False
    from perturb.flows.engine.prefect_server import check_server

    check_server()
    return True


def check_prefect() -> "Check":
    """Return whether flows will find a server: the one that is configured answers, or a temporary one will be used."""
    import time

    from perturb.flows.engine.prefect_settings import check_files, server_is_configured
    from perturb.schemas.errors import SettingsError
    from perturb.tasks.monitor.doctor import Check

    started = time.monotonic()
    try:
        check_files()
        configured = server_is_configured()
        if configured:
            from perturb.flows.engine.prefect_server import check_server

            check_server()
    except SettingsError as error:
        ready, finding = False, str(error)
    else:
        ready = True
        finding = "the configured server answers" if configured else "no server is configured: `produce` starts its own"
    return Check("prefect", ready, finding, time.monotonic() - started)
