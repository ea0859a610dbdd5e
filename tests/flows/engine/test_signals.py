"""What must outlive a Ctrl-C does not hear it."""

import subprocess
import sys

_ASK_A_CHILD = """
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from perturb.flows.engine.signals import deaf_to_interrupts

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        child = deaf_to_interrupts(lambda: pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result())
    print(signal.SIGINT in child, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_processes_that_are_started_deaf_hear_no_interrupt_and_the_starter_does() -> None:
    # In a process of its own: the first child that multiprocessing starts is the one that could go wrong.
    done = subprocess.run([sys.executable, "-c", _ASK_A_CHILD], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["True", "False"]
