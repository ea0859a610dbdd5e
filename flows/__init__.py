"""What runs on a schedule. Orchestration only: the work is done in tasks/, on references and small summaries."""

import contextlib
import os
import sys

from perturb.flows.engine.tied_process import end_with_parent
from perturb.schemas.clean_text import clean_output
from perturb.schemas.errors import SettingsError
from perturb.schemas.private_files import make_private_folder
from perturb.schemas.proxies import exempt_loopback
from perturb.schemas.settings import load_settings


def _choose_prefect_home() -> None:
    """Give Prefect a home under our cache, so that profiles and databases of other projects are left alone.

    A home or a profile that the operator names wins.
    """
    if os.environ.get("PREFECT_HOME") or os.environ.get("PREFECT_PROFILE"):
        return
    # Invalid settings are reported by the command that reads them. A folder that cannot be created is reported by
    # the server that needs it.
    with contextlib.suppress(SettingsError):
        home = load_settings().cache.absolute() / "prefect"
        os.environ["PREFECT_HOME"] = str(home)
        with contextlib.suppress(OSError):
            make_private_folder(home)


# Before Prefect is imported for the first time, wherever that happens: no outside connection, and enough patience
# for its ephemeral server on a busy machine. What the operator sets wins.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
}.items():
    os.environ.setdefault(_name, _value)
exempt_loopback()
# Flow runs of a worker begin here, and not with a command.
clean_output()
if "prefect" not in sys.modules:
    _choose_prefect_home()
# The variable is set by Prefect's worker. A flow run must not outlive it.
if "PREFECT__FLOW_RUN_ID" in os.environ:
    end_with_parent()
