"""What runs on a schedule. Orchestration only: the work is done in tasks/, on references and small summaries."""

import os

# Before Prefect is imported for the first time, wherever that happens: no outside connection, and enough patience
# for its ephemeral server on a busy machine. What the operator sets wins.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
}.items():
    os.environ.setdefault(_name, _value)
