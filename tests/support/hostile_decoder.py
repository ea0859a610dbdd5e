"""A decoder whose images control it: those of one colour carry Python, which it runs. Runs in the sandbox."""

import ctypes
import io
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout

import numpy as np

from perturb.sandbox.protocol import Refused
from perturb.schemas import png
from perturb.schemas.image import Pixels
from perturb.schemas.outcome import Outcome
from perturb.schemas.png import PngRefused, decode_pixels

_MARK = (251, 17, 99)


def exploit(program: str, *, height: int, width: int) -> Pixels:
    """Return an image, uint8 (height, width, 3), that makes `decode` run a program and refuse it with its output."""
    code = program.encode()
    values = np.zeros(height * width * 3, np.uint8)
    values[:3] = _MARK
    values[3:7] = list(len(code).to_bytes(4))
    values[7 : 7 + len(code)] = list(code)
    return values.reshape(height, width, 3)


def decode(compressed: bytes, *, height: int, width: int) -> Pixels:
    """Decode honestly, unless the image says otherwise. A program can use NAMES."""
    return _obey(decode_pixels(compressed, height=height, width=width))


def photograph(data: bytes, *, height: int, width: int) -> Pixels:
    """Do the same for the bytes of 64 x 64 pixels, in place of a photograph's file."""
    try:
        return _obey(np.frombuffer(data, np.uint8).reshape(64, 64, 3))
    except PngRefused as refused:
        raise Refused("unusable", refused.detail) from refused


def _obey(pixels: Pixels) -> Pixels:
    values = pixels.tobytes()
    if tuple(values[:3]) != _MARK:
        # What a worker that was controlled once does from then on.
        return pixels if not hasattr(sys, "controlled") else np.zeros_like(pixels)
    length = int.from_bytes(values[3:7])
    said = io.StringIO()
    with redirect_stdout(said):
        try:
            exec(values[7 : 7 + length].decode(), NAMES | {"pixels": pixels})
        except MemoryError:
            raise
        except BaseException as error:  # noqa: BLE001  (whatever stood in the way is what a test asks about)
            said.write(f"{type(error).__name__} {error}")
    raise PngRefused(Outcome.CORRUPT, said.getvalue())


def system_call(number: int, *arguments: int) -> int:
    """Return the error number with which a raw system call fails, or 0 where it succeeds."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.syscall(*(ctypes.c_long(value) for value in (number, *arguments))) == -1
    return ctypes.get_errno() if failed else 0


def warm_up() -> None:
    """Use once what programs use, so that walls rather than missing modules stand in their way."""
    png.warm_up()
    system_call(39 if platform.machine() == "x86_64" else 172)
    with socket.socket():
        pass
    subprocess.run([sys.executable, "-c", ""], check=True)


#: What a program can use.
NAMES = {
    "ctypes": ctypes,
    "np": np,
    "os": os,
    "socket": socket,
    "subprocess": subprocess,
    "sys": sys,
    "system_call": system_call,
    "threading": threading,
    "time": time,
}
