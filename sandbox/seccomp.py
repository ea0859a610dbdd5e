"""The list of system calls that a worker may make, as a filter of the kernel (seccomp, mode 2).

Written by hand because the bindings need libseccomp.so, which a wheel does not bring. A filter is a program of classic
BPF: it sees the processor architecture, the number of the call and its arguments, never memory. What is not listed
fails with EPERM; a call of another architecture (32-bit code on x86-64) ends the process.

Sources: Linux, Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/{seccomp,filter,audit}.h; the
numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # calls of the x32 ABI have this bit; they are other entries of the same table

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_PROT_EXEC, _CLONE_THREAD = 0x4, 0x10000

# x86-64, AArch64. Memory, its own threads (WebP's decoder starts one), random numbers, clocks, the channel, its end.
_ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "rseq": (334, 293),
}
_MMAP, _MPROTECT, _CLONE, _CLONE3 = (9, 222), (10, 226), (56, 220), (435, 435)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


@dataclass(frozen=True)
class _Architecture:
    audit: int
    column: int


_ARCHITECTURES = {"x86_64": _Architecture(0xC000003E, 0), "aarch64": _Architecture(0xC00000B7, 1)}


def allowed_numbers(machine: str | None = None) -> frozenset[int]:
    """Return the numbers of the calls that may succeed on an architecture, by default this one; none if unknown."""
    architecture = _ARCHITECTURES.get(machine or platform.machine())
    if architecture is None:
        return frozenset()
    listed = [*_ALLOWED.values(), _MMAP, _MPROTECT, _CLONE]
    return frozenset(numbers[architecture.column] for numbers in listed)


def restrict_system_calls() -> None:
    """Allow this thread, and what it starts, only the listed calls. Raises OSError where the kernel has no filters."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    instructions = _instructions(architecture)
    array = (_Instruction * len(instructions))(*(_Instruction(*values) for values in instructions))
    program = _Program(len(instructions), array)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    for option, value, pointer in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program)),
    ):
        if libc.prctl(option, value, pointer, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _instructions(architecture: _Architecture) -> list[tuple[int, int, int, int]]:
    column = architecture.column
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture.audit),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    for numbers in _ALLOWED.values():
        program += [(_JUMP_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    # Flags that a call may not have, or must have. Their upper halves hold nothing.
    for numbers, argument, bit, where_set, where_not in (
        (_MMAP, 2, _PROT_EXEC, _ERRNO | errno.EPERM, _ALLOW),
        (_MPROTECT, 2, _PROT_EXEC, _ERRNO | errno.EPERM, _ALLOW),
        (_CLONE, 0, _CLONE_THREAD, _ALLOW, _ERRNO | errno.EPERM),
    ):
        program += [
            (_JUMP_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (_JUMP_SET, 0, 1, bit),
            (_RETURN, 0, 0, where_set),
            (_RETURN, 0, 0, where_not),
        ]
    # Its flags lie in memory. glibc takes `clone` where this call does not exist.
    program += [(_JUMP_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    return [*program, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
