"""Decoder processes that crash, hang or allocate too much harm nothing but their own image."""

import mmap
import os
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from perturb.sandbox.pool import DecodePool
from perturb.sandbox.process import Refusal, Worker
from perturb.sandbox.protocol import MOST_DETAIL, REPLY, Room
from perturb.schemas.errors import PerturbError
from perturb.schemas.image import encode_png
from perturb.schemas.png import PngRefused
from tests.support.hostile_decoder import exploit

SIDE = 64
PHOTO = np.ascontiguousarray(skimage.data.coffee()[50 : 50 + SIDE, 80 : 80 + SIDE])
ROOT = Path(__file__).parents[2]


def bodies(count: int) -> tuple[list[bytes], list[np.ndarray]]:
    images = [np.roll(PHOTO, shift, axis=0) for shift in range(count)]
    return [encode_png(image) for image in images], images


def test_gives_pixels_and_reasons_in_order() -> None:
    good, images = bodies(20)
    mixed = [body for pair in zip(good, [b"", good[0][:-9]] * 10, strict=True) for body in pair]
    with DecodePool() as pool:
        for _ in range(2):
            results = pool.decode(mixed, height=SIDE, width=SIDE)
            assert all(np.array_equal(found, image) for found, image in zip(results[::2], images, strict=True))
            assert all(isinstance(found, PngRefused) for found in results[1::2])
            # A traceback would hold every body of the call.
            assert all(found.__traceback__ is None for found in results[1::2])  # type: ignore[union-attr]
        assert pool.decode([], height=SIDE, width=SIDE) == []


@pytest.mark.slow
def test_what_kills_hangs_or_bloats_a_decoder_is_refused_alone() -> None:
    good, images = bodies(12)
    with DecodePool(
        workers=2,
        seconds=3.0,
        memory_bytes=64 * 2**20,
        decoder="tests.support.hostile_decoder:decode",
        search_path=[ROOT],
    ) as pool:
        for program, says in (
            ("os._exit(1)", "ended the process"),
            ("time.sleep(3600)", "more than the 3 s"),
            ("bytearray(256 * 2**20)", "out of the memory"),
        ):
            bad = exploit(program, height=SIDE, width=SIDE)
            mixed = [*good[:6], encode_png(bad), *good[6:]]
            results = pool.decode(mixed, height=SIDE, width=SIDE)
            refused = results.pop(6)
            assert isinstance(refused, PngRefused)
            assert refused.outcome == "decoder_failed"
            assert says in refused.detail
            assert all(np.array_equal(found, image) for found, image in zip(results, images, strict=True))


def test_processes_killed_between_rounds_are_replaced() -> None:
    good, images = bodies(6)
    with DecodePool(workers=2) as pool:
        for template_too in (False, True):
            pool.decode(good, height=SIDE, width=SIDE)
            for worker in list(pool._workers._ahead):
                worker.wait_until_ready()
                os.kill(worker.pid, signal.SIGKILL)
            if template_too:
                (template,) = pool.processes()
                os.kill(template, signal.SIGKILL)
                os.waitid(os.P_PID, template, os.WEXITED | os.WNOWAIT)
            results = pool.decode(good, height=SIDE, width=SIDE)
            assert all(np.array_equal(found, image) for found, image in zip(results, images, strict=True))


def test_a_call_that_was_interrupted_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    good, images = bodies(8)
    with DecodePool(workers=2) as pool:
        pool.decode(good[:2], height=SIDE, width=SIDE)
        with monkeypatch.context() as broken:
            broken.setattr("perturb.sandbox.process.pixels_in", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.decode(good, height=SIDE, width=SIDE)
        for _ in range(2):
            results = pool.decode(good[::-1], height=SIDE, width=SIDE)
            assert all(np.array_equal(found, image) for found, image in zip(results, images[::-1], strict=True))


def test_workers_are_kept_for_the_calls_of_one_round() -> None:
    good, _ = bodies(4)
    with DecodePool(workers=1) as pool:
        with pool.kept():
            seen = set()
            for body in good:
                pool.decode([body], height=SIDE, width=SIDE)
                seen |= {worker.pid for worker in pool._workers._ahead}
            assert len(seen) == 1
        pool.decode(good[:1], height=SIDE, width=SIDE)
        assert not seen & {worker.pid for worker in pool._workers._ahead}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"x",
        REPLY.pack(SIDE, SIDE + 1),
        REPLY.pack(2**31, 2**31),
        REPLY.pack(SIDE, SIDE) + b"corrupt\nx",
        REPLY.pack(0, 0),
        REPLY.pack(0, 0) + b"accepted\nx",
        REPLY.pack(0, 0) + b"corrupt\n".ljust(MOST_DETAIL + 1, b"x"),
    ],
)
def test_a_decoder_that_its_image_controls_is_not_believed(lie: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    room = Room(SIDE * SIDE * 3, 1)
    with ours, theirs, mmap.mmap(-1, room.size) as memory:
        theirs.sendall(lie)
        worker = Worker(ours, memory, room)
        alive, refused = worker.answer(0.2, height=SIDE, width=SIDE, reasons=frozenset({"corrupt"}))
    assert not alive
    assert isinstance(refused, Refusal)
    assert refused.reason == "decoder_failed"


def test_threads_share_a_pool() -> None:
    good, images = bodies(8)
    wrong: list[str] = []
    with DecodePool(workers=2) as pool:

        def work() -> None:
            results = pool.decode(good, height=SIDE, width=SIDE)
            if not all(np.array_equal(found, image) for found, image in zip(results, images, strict=True)):
                wrong.append("pixels differ")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_pool_that_cannot_start_says_so() -> None:
    good, _ = bodies(1)
    with DecodePool(decoder="no_such_module:decode") as pool, pytest.raises(PerturbError, match="no_such_module"):
        pool.decode(good, height=SIDE, width=SIDE)
