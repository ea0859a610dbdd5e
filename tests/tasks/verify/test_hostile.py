"""Thousands of broken and hostile answers: each is refused with a reason, and the good ones beside them stand.

`HOSTILE_ANSWERS=20000 pytest tests/tasks/verify/test_hostile.py` runs the long form.
"""

import io
import os
import resource
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from perturb.models.judge.judge import NoJudge
from perturb.sandbox.pool import DecodePool
from perturb.schemas.image import encode_png
from perturb.schemas.outcome import Outcome
from perturb.tasks.verify.round import verify
from tests.support.verification_rounds import (
    SETTINGS,
    answers,
    challenge,
    classifier,
    clean,
    flipped,
    ihdr,
    png,
    thinned,
)

COUNT = int(os.environ.get("HOSTILE_ANSWERS", "2000"))
ROUND = 250
MOST_MEMORY = 512 * 2**20

Generator = np.random.Generator
GOOD = encode_png(flipped())
SIDE = clean().shape[0]
END = (b"IEND", b"")


def flip_bits(random: Generator) -> bytes:
    data = bytearray(GOOD)
    for position in random.integers(0, len(data), random.integers(1, 9)):
        data[position] ^= 1 << int(random.integers(0, 8))
    return bytes(data)


def truncate(random: Generator) -> bytes:
    return GOOD[: random.integers(0, len(GOOD))]


def splice(random: Generator) -> bytes:
    at, length = random.integers(0, len(GOOD)), random.integers(1, 400)
    return GOOD[:at] + random.bytes(length) + GOOD[at + (length if random.random() < 0.5 else 0) :]


def noise(random: Generator) -> bytes:
    return random.bytes(random.integers(0, 5000))


def signature_and_noise(random: Generator) -> bytes:
    return GOOD[: random.integers(8, 60)] + random.bytes(random.integers(0, 5000))


def wrong_kind(random: Generator) -> bytes:
    image, buffer = Image.fromarray(clean()), io.BytesIO()
    kind = random.choice(["JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"])
    image.save(buffer, str(kind))
    return buffer.getvalue()


def wrong_mode(random: Generator) -> bytes:
    image, buffer = Image.fromarray(clean()), io.BytesIO()
    mode = str(random.choice(["RGBA", "P", "L", "LA", "1", "I;16"]))
    (Image.new(mode, image.size) if mode == "I;16" else image.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def wrong_size(random: Generator) -> bytes:
    width, height = random.integers(1, 400, 2)
    buffer = io.BytesIO()
    Image.fromarray(clean()).resize((int(width), int(height))).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def huge_dimensions(random: Generator) -> bytes:
    width, height = (int(2 ** random.uniform(8, 31)) for _ in range(2))
    return png([ihdr(width, height), (b"IDAT", zlib.compress(bytes(10_000))), END])


def bomb(random: Generator) -> bytes:
    return png([ihdr(SIDE, SIDE), (b"IDAT", BOMB[: random.integers(1000, len(BOMB))]), END])


def header_fields(random: Generator) -> bytes:
    fields = bytearray(ihdr(SIDE, SIDE)[1])
    fields[random.integers(0, 13)] = random.integers(0, 256)
    return png([(b"IHDR", bytes(fields)), (b"IDAT", zlib.compress(random.bytes(100))), END])


def animated(random: Generator) -> bytes:
    frames = [Image.fromarray(np.roll(clean(), int(shift), axis=0)) for shift in random.integers(1, 50, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], compress_level=1)
    return buffer.getvalue()


def with_extras(random: Generator) -> bytes:
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("key", random.bytes(20).hex(), zip=bool(random.integers(0, 2)))
    Image.fromarray(clean()).save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def trailing(random: Generator) -> bytes:
    return GOOD + random.bytes(random.integers(1, 2000))


def broken_pixels(random: Generator) -> bytes:
    rows = random.integers(0, 256, (SIDE, 1 + 3 * SIDE), dtype=np.uint8)
    rows[:, 0] %= 7
    data = zlib.compress(rows.tobytes()[: random.integers(0, rows.size + 1)], 1)
    return png([ihdr(SIDE, SIDE), (b"IDAT", data[: random.integers(1, len(data) + 1)]), END])


def many_chunks(random: Generator) -> bytes:
    return png([ihdr(SIDE, SIDE), *[(b"IDAT", random.bytes(1))] * 3000, END])


def enormous(random: Generator) -> bytes:
    return GOOD + ENORMOUS


def random_pixels(random: Generator) -> bytes:
    return encode_png(random.integers(0, 256, clean().shape, dtype=np.uint8))


ENORMOUS = bytes(50_000_000)
BOMB = zlib.compress(bytes(200 * 2**20), 9)
MUTATIONS: list[Callable[[Generator], bytes]] = [
    flip_bits, truncate, splice, noise, signature_and_noise, wrong_kind, wrong_mode, wrong_size, huge_dimensions, bomb,
    header_fields, animated, with_extras, trailing, broken_pixels, many_chunks, random_pixels,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hostile_answers_are_refused_and_good_ones_unharmed() -> None:
    network, asked = classifier(), challenge()
    good = [GOOD, encode_png(thinned(flipped(), 0.9))]
    reasons: Counter[str] = Counter()
    verify(asked, answers(good), classifier=network, judge=NoJudge(), settings=SETTINGS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with DecodePool(workers=2) as pool:
        for start in range(0, COUNT, ROUND):
            random = np.random.default_rng(start)
            hostile = [MUTATIONS[i % len(MUTATIONS)](random) for i in range(min(ROUND, COUNT - start))]
            hostile.append(enormous(random))
            # The good answers come last and slowest: nothing that hostile ones do may cost them their place.
            verdicts = verify(
                asked, answers(hostile + good), classifier=network, judge=NoJudge(), settings=SETTINGS, pool=pool
            )
            assert [verdict.outcome for verdict in verdicts[-2:]] == ["accepted", "accepted"]
            for verdict in verdicts[:-2]:
                assert verdict.outcome != Outcome.ACCEPTED
                assert Outcome(verdict.outcome)
                assert verdict.detail
                reasons[verdict.outcome] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(f"{reasons.total()} refused: {dict(reasons.most_common())}; memory grew by {grown / 2**20:.0f} MiB")  # noqa: T201
    assert grown < MOST_MEMORY
    assert Outcome.DECODER_FAILED not in reasons
    expected = {"not_png", "wrong_mode", "wrong_size", "extra_chunks", "trailing_data", "corrupt", "too_large"}
    assert expected <= set(reasons)
