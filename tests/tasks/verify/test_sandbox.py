"""Decoder processes that crash, hang or allocate too much harm nothing but their own image."""

import os
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from perturb.schemas.errors import PerturbError
from perturb.schemas.image import encode_png
from perturb.schemas.png import PngRefused
from perturb.tasks.verify.sandbox import DecodePool
from perturb.tasks.verify.sandbox_process import DecoderProcess
from perturb.tasks.verify.sandbox_protocol import MOST_DETAIL, REPLY

SIDE = 64
PHOTO = np.ascontiguousarray(skimage.data.coffee()[50 : 50 + SIDE, 80 : 80 + SIDE])
ROOT = Path(__file__).parents[3]


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


def test_what_kills_hangs_or_bloats_a_decoder_is_refused_alone() -> None:
    good, images = bodies(12)
    with DecodePool(
        workers=2,
        seconds=3.0,
        memory_bytes=64 * 2**20,
        decoder="tests.support.hostile_decoder:decode",
        search_path=[ROOT],
    ) as pool:
        # `hostile_decoder` reads what to do from the first pixel.
        for command, says in ((1, "ended the process"), (2, "more than the 3 s"), (3, "out of the memory")):
            bad = PHOTO.copy()
            bad[0, 0] = (251, 17, command)
            mixed = [*good[:6], encode_png(bad), *good[6:]]
            results = pool.decode(mixed, height=SIDE, width=SIDE)
            refused = results.pop(6)
            assert isinstance(refused, PngRefused)
            assert refused.outcome == "decoder_failed"
            assert says in refused.detail
            assert all(np.array_equal(found, image) for found, image in zip(results, images, strict=True))


def test_workers_killed_between_rounds_are_replaced() -> None:
    good, images = bodies(6)
    with DecodePool(workers=2) as pool:
        pool.decode(good, height=SIDE, width=SIDE)
        for worker in list(pool._workers):
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        results = pool.decode(good, height=SIDE, width=SIDE)
        assert all(np.array_equal(found, image) for found, image in zip(results, images, strict=True))


def test_a_call_that_was_interrupted_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    good, images = bodies(8)
    with DecodePool(workers=2) as pool:
        pool.decode(good[:2], height=SIDE, width=SIDE)
        with monkeypatch.context() as broken:
            broken.setattr("perturb.tasks.verify.sandbox_process.DecoderProcess._pixels", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.decode(good, height=SIDE, width=SIDE)
        for _ in range(2):
            results = pool.decode(good[::-1], height=SIDE, width=SIDE)
            assert all(np.array_equal(found, image) for found, image in zip(results, images[::-1], strict=True))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "lie",
    [
        REPLY.pack(2**32 - 1),
        REPLY.pack(MOST_DETAIL + 1) + b"corrupt\n".ljust(MOST_DETAIL + 1, b"x"),
        REPLY.pack(10) + b"accepted\nx",
        b"x",
    ],
)
def test_a_decoder_that_its_image_controls_is_not_believed(lie: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(lie)
        alive, refused = DecoderProcess(None, ours).answer(0.2, height=SIDE, width=SIDE)  # type: ignore[arg-type]
    assert not alive
    assert isinstance(refused, PngRefused)
    assert refused.outcome == "decoder_failed"


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


def test_workers_see_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with DecodePool(workers=1, decoder="tests.support.hostile_decoder:decode", search_path=[ROOT]) as pool:
        asking = PHOTO.copy()
        asking[0, 0] = (251, 17, 4)
        (refused,) = pool.decode([encode_png(asking)], height=SIDE, width=SIDE)
    assert isinstance(refused, PngRefused)
    assert "AWS_SECRET_ACCESS_KEY" not in refused.detail
    assert "PATH" in refused.detail


def test_a_pool_that_cannot_start_says_so() -> None:
    good, _ = bodies(1)
    with DecodePool(decoder="no_such_module:decode") as pool, pytest.raises(PerturbError, match="no_such_module"):
        pool.decode(good, height=SIDE, width=SIDE)
