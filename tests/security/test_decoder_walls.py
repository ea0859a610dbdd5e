"""What an image can do that has taken over its decoder: nothing. It runs any Python in the worker, behind the walls.

The tests of single walls say by their names which ones stood on this kernel; those that it lacks are skipped.
"""

import ctypes
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from perturb.sandbox.pool import DecodePool
from perturb.sandbox.requirement import ALL, check_walls, describe, require_walls
from perturb.sandbox.seccomp import allowed_numbers
from perturb.sandbox.walls import Wall
from perturb.schemas.errors import PerturbError
from perturb.schemas.image import Pixels, encode_png
from perturb.schemas.png import PngRefused
from tests.support.hostile_decoder import exploit

SIDE = 64
PHOTO = np.ascontiguousarray(skimage.data.coffee()[50 : 50 + SIDE, 80 : 80 + SIDE])
ROOT = Path(__file__).parents[2]
SECRET = "a secret of the producer"
REFUSED = ("PermissionError", "OSError", "BlockingIOError")

Attack = Callable[[str], str]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    decoder = "tests.support.hostile_decoder:decode"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with DecodePool(workers=1, seconds=3.0, decoder=decoder, search_path=[ROOT]) as opened:
            yield opened


@pytest.fixture
def attack(pool: DecodePool) -> Attack:
    """A function that runs a program in a worker and returns what it printed, or the error that ended it."""

    def run(program: str) -> str:
        (refused,) = decode(pool, exploit(program, height=SIDE, width=SIDE))
        assert isinstance(refused, PngRefused)
        return refused.detail.strip()

    return run


def decode(pool: DecodePool, *images: Pixels) -> list[Pixels | PngRefused]:
    return pool.decode([encode_png(image) for image in images], height=SIDE, width=SIDE)


@pytest.mark.parametrize("wall", list(Wall), ids=lambda wall: str(wall.name).lower())
def test_a_wall_stands(pool: DecodePool, wall: Wall) -> None:
    if wall not in pool.standing():
        pytest.skip(f"this kernel lacks a wall around the decoders: {describe(pool.standing())}")
    assert wall.meaning


def test_the_program_of_an_image_runs(attack: Attack) -> None:
    assert attack("print(1 + 1)") == "2"


@pytest.mark.parametrize(
    "program",
    [
        "open('{secret}').read()",
        "open('/proc/{parent}/environ', 'rb').read()",
        "open('/proc/%d/environ' % os.getppid(), 'rb').read()",
        "open('/proc/{parent}/mem', 'r+b')",
        "open('/proc/self/maps').read()",
        "os.listdir('{folder}')",
        "os.stat('{secret}')",
        "os.open('{folder}/new', os.O_CREAT | os.O_WRONLY)",
        "os.unlink('{secret}')",
        "os.rename('{secret}', '{folder}/renamed')",
        "os.mkdir('{folder}/made')",
        "os.symlink('{secret}', '{folder}/link')",
        "os.chmod('{secret}', 0o777)",
        "os.truncate('{secret}', 0)",
        "socket.socket().connect(('127.0.0.1', {port}))",
        "socket.socket(socket.AF_UNIX).connect(chr(0) + 'perturb-test')",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socketpair()",
        "os.execv('/bin/true', ['true'])",
        "subprocess.run(['/bin/true'])",
        "os.posix_spawn('/bin/true', ['true'], {{}})",
        "os.fork()",
        "os.kill({parent}, 9)",
        "os.kill(os.getppid(), 9)",
        "os.killpg(0, 9)",
        "os.setsid()",
        "os.memfd_create('x')",
        "os.pipe()",
        "os.pidfd_open({parent})",
        "os.dup(0)",
    ],
)
def test_a_controlled_decoder_is_refused(attack: Attack, tmp_path: Path, program: str) -> None:
    secret = tmp_path / "pseudonym.key"
    secret.write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = attack(program.format(secret=secret, folder=tmp_path, parent=os.getpid(), port=server.getsockname()[1]))
        assert not select.select([server], [], [], 0)[0]
    assert said.startswith(REFUSED), said
    assert "not permitted" in said or "denied" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pseudonym.key"]
    assert secret.read_text() == SECRET
    assert secret.stat().st_mode & 0o777 != 0o777


def test_no_system_call_succeeds_but_the_listed(attack: Attack) -> None:
    """Also `ptrace`, `process_vm_readv`, `io_uring_setup` and `bpf`, and those of the x32 table.

    335 and 336 are left out: uretprobe and uprobe of x86-64, for which the kernel asks no filter and ends a process
    that calls them outside a probe.
    """
    allowed = sorted(allowed_numbers() | {335, 336})
    said = attack(
        f"print([n for n in [*range(600), *range(0x40000000, 0x40000000 + 600)] "
        f"if n not in {allowed} and system_call(n, 0, 0, 0, 0, 0, 0) not in (1, 38)])"
    )
    assert said == "[]"


def test_no_memory_becomes_executable(attack: Attack) -> None:
    """A copy of machine code can't be run: neither new memory nor present memory may be given that right."""
    said = attack(
        "import mmap\n"
        "for wanted in (7, 5, 4):\n"
        "    try: mmap.mmap(-1, 4096, prot=wanted); print('mapped', wanted)\n"
        "    except PermissionError: pass\n"
        "m = mmap.mmap(-1, 4096)\n"
        "a = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "l = ctypes.CDLL(None); l.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)\n"
        "print([l.mprotect(a, 4096, wanted) for wanted in (7, 5, 4)])"
    )
    assert said == "[-1, -1, -1]"


def test_a_controlled_decoder_has_no_secret_in_reach(attack: Attack) -> None:
    said = attack("print(os.environ, sys.argv, [list(f.f_locals) for f in [sys._getframe(2)]])")
    assert "PATH" in said
    assert SECRET not in said
    assert "AWS_SECRET_ACCESS_KEY" not in said


def test_a_controlled_decoder_sees_no_image_of_an_earlier_round(pool: DecodePool, attack: Attack) -> None:
    (seen,) = decode(pool, PHOTO)
    assert np.array_equal(seen, PHOTO)
    piece = PHOTO[20, :20].tobytes()
    search = (
        "frame = sys._getframe()\n"
        "while 'memory' not in frame.f_locals: frame = frame.f_back\n"
        "print(frame.f_locals['memory'].find({piece!r}), len(frame.f_locals['memory']) > 0)"
    )
    assert attack(search.format(piece=piece)) == "-1 True"
    # The same search finds what is there: the program's own image is not decoded into it yet, its file is.
    assert attack(search.replace("{piece!r}", "frame.f_locals['memory'][-9000:-8990]")) != "-1 True"


def test_a_controlled_decoder_survives_no_round(pool: DecodePool, attack: Attack) -> None:
    process = int(
        attack(
            "sys.controlled = True\n"
            "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n"
            "print(os.getpid())"
        )
    )
    for _ in range(3):
        (honest,) = decode(pool, PHOTO)
        assert np.array_equal(honest, PHOTO)
        assert process not in pool.processes()
    with pytest.raises(ProcessLookupError):
        # Killed, and reaped by the template when it forked again.
        os.kill(process, 0)


def test_one_that_goes_on_for_ever_is_ended(pool: DecodePool) -> None:
    spinning, honest = decode(pool, exploit("while True: pass", height=SIDE, width=SIDE), PHOTO)
    assert isinstance(spinning, PngRefused)
    assert spinning.outcome == "decoder_failed"
    assert "more than the 3 s" in spinning.detail
    assert np.array_equal(honest, PHOTO)


def test_the_memory_of_the_producer_is_hidden(pool: DecodePool) -> None:
    """With PR_GET_DUMPABLE 0, /proc/PID/environ and /proc/PID/mem are closed to other processes of the user."""
    decode(pool, PHOTO)
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0


def test_missing_walls_are_named_and_refused_as_the_setting_says(caplog: pytest.LogCaptureFixture) -> None:
    try:
        check_walls(ALL)
        assert not caplog.messages
        check_walls(ALL & ~Wall.LANDLOCK_NETWORK)
        assert "landlock network (it can bind" in caplog.messages[-1]
        with pytest.raises(
            PerturbError, match=r"missing on Linux.*seccomp \(it can make no system call.*decoder_walls"
        ):
            check_walls(ALL & ~Wall.SECCOMP)
        require_walls("all")
        with pytest.raises(PerturbError, match="landlock files"):
            check_walls(ALL & ~Wall.LANDLOCK_FILES)
        require_walls("none")
        check_walls(Wall(0))
        assert "standing: none" in caplog.messages[-1]
    finally:
        require_walls("seccomp")


def test_threads_of_a_decoder_are_allowed(attack: Attack) -> None:
    """WebP's decoder works in two."""
    assert attack("t = threading.Thread(target=lambda: print('ran')); t.start(); t.join()") == "ran", (
        threading.active_count()
    )
