"""Processes that must outlive a Ctrl-C do not receive it."""

import subprocess
import sys

_ASK_A_CHILD = """
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from perturb.flows.engine.signals import shielded_from_sigint

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        child = shielded_from_sigint(lambda: pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result())
    print(signal.SIGINT in child, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_shielded_processes_ignore_sigint_and_their_starter_does_not() -> None:
    # In a process of its own: the first child that multiprocessing starts is the one that could go wrong.
    done = subprocess.run([sys.executable, "-c", _ASK_A_CHILD], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"]
