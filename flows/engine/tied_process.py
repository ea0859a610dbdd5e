"""Processes that end when their parent does, also when the parent is killed outright."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

_POLL_SECONDS = 0.5
# A flow that gets SIGTERM still verifies and commits the round whose answers are there.
END_SECONDS = 60.0

# Run by an interpreter without site packages, which takes some milliseconds; then it becomes the command. Linux keeps
# the request (PR_SET_PDEATHSIG, 1) for the new program. Code between fork and exec of this process would be unsafe
# beside its threads. The parent may have ended before the request.
_TIE = """
import ctypes, os, sys
number, parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(number))
if os.getppid() != int(parent):
    sys.exit(1)
os.execv(command[0], command)
"""


def tied(command: Sequence[str], number: signal.Signals) -> list[str]:
    """Return a command line that runs `command` and has it receive the signal `number` when its parent ends.

    The parent is the thread that starts the process: start it from the main thread. `command` begins with a path.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-S", "-E", "-c", _TIE, str(int(number)), str(os.getpid()), *command]


def end_with_parent() -> None:
    """Have this process get SIGTERM when its parent ends, and SIGKILL when it still runs 60 seconds later."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
