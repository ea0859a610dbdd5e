"""The inside of a template process, which `perturb.sandbox.process` starts with `python -m`.

It imports the decoder, raises the walls that its children inherit, and forks a worker each time it is asked to. It
never reads an image. It ends when its control socket does, and its workers with it.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys

from perturb.sandbox.protocol import FORK, FORKED, FORKED_MARK, Room
from perturb.sandbox.walls import mapped_bytes, raise_shared_walls
from perturb.sandbox.worker import Decode, Post, serve


def main() -> None:
    """Fork workers until the socket ends. Arguments: its descriptor, memory for a worker in bytes, `module:function`.

    A module with a function `warm_up` has it called first: what it imports can't be imported behind the walls.
    """
    descriptor, memory, decoder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle.
    module_name, _, name = decoder.partition(":")
    module = importlib.import_module(module_name)
    decode: Decode = getattr(module, name)
    if hasattr(module, "warm_up"):
        module.warm_up()
    address_space = mapped_bytes() + memory
    standing = raise_shared_walls()
    gc.collect()
    gc.freeze()  # A worker's collections then leave the pages alone that it shares with this process.
    with socket.socket(fileno=descriptor) as control:
        control.send(b"ready")
        while True:
            request, descriptors, _, _ = socket.recv_fds(control, FORK.size, 2)
            if len(request) < FORK.size or len(descriptors) != 2:
                return
            _reap()
            channel, shared = descriptors
            _fork(
                control,
                Post(channel, shared, Room(*FORK.unpack(request)), decode, standing, address_space, os.getpid()),
            )


def _fork(control: socket.socket, post: Post) -> None:
    process = os.fork()
    if process == 0:
        try:
            control.close()
            serve(post)
        finally:
            os._exit(1)
    handle = os.pidfd_open(process)
    with contextlib.suppress(OSError), socket.socket(fileno=post.channel) as channel:  # The owner may be gone.
        socket.send_fds(channel, [FORKED.pack(FORKED_MARK, process)], [handle])
    os.close(handle)
    os.close(post.memory)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
