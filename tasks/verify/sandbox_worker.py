"""The inside of a sandboxed decoder process, which `perturb.tasks.verify.sandbox_process` starts with `python -m`.

Imports Pillow and NumPy only.

It reads requests from a socket, decodes from and into shared memory whose descriptor comes with the first of them (and
with a later one when images grow), and answers with an outcome. It limits itself before it touches the first byte, and
ends when the socket does.
"""

import contextlib
import importlib
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from perturb.schemas.image import Pixels
from perturb.schemas.png import PngRefused
from perturb.tasks.verify.sandbox_protocol import MOST_DETAIL, REPLY, REQUEST, compressed_at, pixels_in


def main() -> None:
    """Serve until the socket ends. Arguments: its descriptor, the memory limit in bytes, `module:function`."""
    descriptor, memory, decoder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle.
    module, _, name = decoder.partition(":")
    decode: Callable[..., Pixels] = getattr(importlib.import_module(module), name)
    _limit(memory)
    memory_of_images: mmap.mmap | None = None
    with socket.socket(fileno=descriptor) as channel:
        channel.sendall(REPLY.pack(0))
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, REQUEST.size, 1, socket.MSG_WAITALL)
            for given in descriptors:
                memory_of_images = mmap.mmap(given, os.fstat(given).st_size)
                os.close(given)
            if len(request) < REQUEST.size or memory_of_images is None:
                return
            text = _serve(request, memory_of_images, decode)
            channel.sendall(REPLY.pack(len(text)) + text)


def _serve(request: bytes, memory: mmap.mmap, decode: Callable[..., Pixels]) -> bytes:
    height, width, length = REQUEST.unpack(request)
    try:
        compressed = memory[compressed_at(height, width, length)]
        pixels_in(memory, height, width)[:] = decode(compressed, height=height, width=width)
    except PngRefused as refused:
        return f"{refused.outcome}\n{refused.detail}".encode()[:MOST_DETAIL]
    except MemoryError:
        return b"decoder_failed\ndecoding ran out of the memory that one image is given"
    return b""


def _limit(memory: int) -> None:
    used = 0
    with contextlib.suppress(OSError):  # Only Linux has /proc; elsewhere the limit counts from 0.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    limits = {
        resource.RLIMIT_AS: used + memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for what, most in limits.items():
        with contextlib.suppress(ValueError, OSError):  # A lower limit is in force already.
            resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()
