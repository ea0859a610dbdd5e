"""The process that local miners are born from: loads the classifier once, then forks one process a miner.

Started by `perturb.miner.local`, which sends one line of JSON on stdin and reads one line on stdout. Forking after the
load costs one interpreter, one torch and one set of weights, however many miners there are.

Nobody outlives the process that asked for them. It holds the only writing end of our stdin, so its death hangs the
pipe up for all of us; and because a fork of it could hold that end open too, everybody also watches who its parent is.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
from typing import Any

from perturb.miner.answer import Answer, attack_answer
from perturb.miner.faulty_answers import bad_answer
from perturb.schemas.errors import PerturbError

_WATCH_MILLISECONDS = 500
_PIPE = 0


def main() -> None:
    """Read the plan, give birth, report, and wait for the end."""
    plan = json.loads(sys.stdin.buffer.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else is printed belongs into the log.
    try:
        listeners = _bind_all(plan)
        answers = _answers(plan)
    except PerturbError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), file=out, flush=True)
        sys.exit(error.exit_code)
    ready, announce = os.pipe()
    miners: list[dict[str, Any]] = []
    for place, (listener, answer) in enumerate(zip(listeners, answers, strict=True)):
        pid = os.fork()
        if pid == 0:
            out.close()
            _live(plan, place, listeners, answer, announce)
        miners.append({"pid": pid, "port": listener.getsockname()[1], "hotkey": _keypair(place).ss58_address})
    os.close(announce)
    for listener in listeners:
        listener.close()
    with os.fdopen(ready, "rb") as signs:
        # One byte from each that runs; the end of the pipe comes early when all the others died.
        running = len(signs.read(len(miners)))
    if running == len(miners):
        print(json.dumps({"miners": miners}), file=out, flush=True)
        out.close()
        _wait_for_end(plan["parent"])
    for miner in miners:
        os.kill(miner["pid"], signal.SIGKILL)
        os.waitpid(miner["pid"], 0)
    # Nothing is left to save, and taking torch down in good order costs seconds.
    os._exit(0)


def _bind_all(plan: dict[str, Any]) -> list[socket.socket]:
    from perturb.miner.server import bind

    return [bind(plan["host"], port) for port in plan["ports"]]


def _answers(plan: dict[str, Any]) -> list[Answer]:
    from perturb.schemas.settings import ClassifierSettings

    names = plan["attacks"]
    if any(name != "bad" for name in names):
        import torch

        torch.set_num_threads(1)
    classifier = ClassifierSettings.model_validate(plan["classifier"])
    budget = plan["budget_seconds"]
    return [bad_answer() if name == "bad" else attack_answer(name, classifier, budget_seconds=budget) for name in names]


def _keypair(place: int) -> Any:
    from perturb.subnet.keys import development_keypair

    return development_keypair(f"//PerturbMiner/{place}")


def _live(plan: dict[str, Any], place: int, listeners: list[socket.socket], answer: Answer, announce: int) -> None:
    """One miner's life, in its own process. Doesn't return."""
    from perturb.miner.server import create_app, serve
    from perturb.miner.validators import ValidatorList

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
    """Return when the pipe hangs up or the parent is another process than `parent`."""
    poller = select.poll()
    poller.register(_PIPE, select.POLLHUP)
    while os.getppid() == parent:
        if poller.poll(_WATCH_MILLISECONDS):
            return


if __name__ == "__main__":
    main()
