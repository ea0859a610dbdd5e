"""Fork server for local miners: loads the classifier once, then forks one process for each miner.

Started by `perturb.miner.local`, which writes one line of JSON (`MinerPlan`) to its standard input and reads lines of
JSON from its standard output: `{"running": 2, "of": 5}` on the way, and `{"miners": [...]}` or `{"error": ...}` at the
end. Forking after the load costs one interpreter, one torch and one set of weights for any number of miners.

No miner outlives the process that started the fork server. That process holds the only writing end of standard input,
so its death closes the pipe for the fork server and all miners. A fork of that process could hold the end open too, so
each process also watches its parent's id.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping

from perturb.miner.answer import Answer, attack_answer
from perturb.miner.faulty_answers import bad_answer
from perturb.miner.local import MinerPlan, MinerReport
from perturb.schemas.errors import PerturbError
from perturb.subnet.keys import Keypair

_WATCH_MILLISECONDS = 500
_PIPE = 0


def main() -> None:
    """Fork the miners, report them, wait for shutdown."""
    # As the documentation of `gc` recommends before a fork: collections would copy the pages that all miners share.
    gc.disable()
    plan: MinerPlan = json.loads(sys.stdin.buffer.readline())
    out = os.dup(1)
    os.dup2(2, 1)  # All other output belongs in the log.
    try:
        listeners = _bind_all(plan)
        answers = _answers(plan)
    except PerturbError as error:
        _report(out, {"error": str(error), "kind": type(error).__name__})
        sys.exit(error.exit_code)
    gc.freeze()
    ready, announce = os.pipe()
    miners: list[MinerReport] = []
    for place, (listener, answer) in enumerate(zip(listeners, answers, strict=True)):
        pid = os.fork()
        if pid == 0:
            os.close(out)
            _run_miner(plan, place, listeners, answer, announce)
        miners.append({"pid": pid, "port": listener.getsockname()[1], "hotkey": _keypair(place).ss58_address})
    os.close(announce)
    for listener in listeners:
        listener.close()
    if _all_answer(ready, len(miners), out):
        _report(out, {"miners": miners})
        os.close(out)
        _wait_for_end(plan["parent"])
    for miner in miners:
        os.kill(miner["pid"], signal.SIGKILL)
        os.waitpid(miner["pid"], 0)
    # Nothing is left to save, and unloading torch in good order costs seconds.
    os._exit(0)


def _report(out: int, message: Mapping[str, object]) -> None:
    # Where the reader has gone, the closed pipe of standard input ends all miners.
    with contextlib.suppress(BrokenPipeError):
        os.write(out, json.dumps(message).encode() + b"\n")


def _all_answer(ready: int, count: int, out: int) -> bool:
    """Report each miner that answers, and return whether all do.

    Each of them writes one byte to the pipe `ready`. The pipe ends early when all that have not written are dead.
    """
    running = 0
    while running < count and (signs := os.read(ready, count)):
        running += len(signs)
        _report(out, {"running": running, "of": count})
    os.close(ready)
    return running == count


def _bind_all(plan: MinerPlan) -> list[socket.socket]:
    from perturb.miner.server import bind

    return [bind(plan["host"], port) for port in plan["ports"]]


def _answers(plan: MinerPlan) -> list[Answer]:
    from pathlib import Path

    from perturb.miner.targets import TargetPool
    from perturb.schemas.settings import ClassifierSettings, S3Settings

    names = plan["attacks"]
    if any(name != "bad" for name in names):
        import torch

        torch.set_num_threads(1)
    if all(name == "bad" for name in names):
        return [bad_answer() for _ in names]
    targets = TargetPool(
        ClassifierSettings.model_validate(plan["classifier"]),
        registry=plan["targets"],
        cache=Path(plan["cache"]),
        s3=S3Settings.model_validate(plan["s3"]),
    )
    budget = plan["budget_seconds"]
    return [bad_answer() if name == "bad" else attack_answer(name, targets, budget_seconds=budget) for name in names]


def _keypair(place: int) -> Keypair:
    from perturb.subnet.keys import development_keypair

    return development_keypair(f"//PerturbMiner/{place}")


def _run_miner(plan: MinerPlan, place: int, listeners: list[socket.socket], answer: Answer, announce: int) -> None:
    """Serve as one miner, in its own process, until the end. Does not return."""
    from perturb.miner.server import create_app, serve
    from perturb.miner.validators import ValidatorList

    gc.enable()
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    for other, listener in enumerate(listeners):
        if other != place:
            listener.close()
    app = create_app(
        answer,
        _keypair(place),
        ValidatorList(lambda: frozenset(plan["validators"])),
        name=plan["attacks"][place],
        on_ready=lambda: os.close(announce) if os.write(announce, b".") else None,
    )
    serve(app, listeners[place])
    os._exit(0)


def _exit_with(parent: int) -> None:
    _wait_for_end(parent)
    os._exit(0)


def _wait_for_end(parent: int) -> None:
    """Return when the pipe is closed or the parent is another process than `parent`."""
    poller = select.poll()
    poller.register(_PIPE, select.POLLHUP)
    while os.getppid() == parent:
        if poller.poll(_WATCH_MILLISECONDS):
            return


if __name__ == "__main__":
    main()
