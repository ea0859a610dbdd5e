"""The strict PNG reader: what it takes, what it refuses and why, and that nothing else can happen."""

import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from perturb.schemas.image import encode_png
from perturb.schemas.png import PngRefused, max_png_bytes, read_png

SIDE = 48
PHOTO = np.ascontiguousarray(skimage.data.astronaut()[100 : 100 + SIDE, 200 : 200 + SIDE])
GOOD = encode_png(PHOTO)


def packed(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int = SIDE, height: int = SIDE, depth: int = 8, colour: int = 2, last: bytes = b"\0\0\0") -> tuple:
    return b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + last


ROWS = b"".join(b"\0" + row.tobytes() for row in PHOTO)
IDAT = (b"IDAT", zlib.compress(ROWS))
END = (b"IEND", b"")


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("from", "me")
    return saved(Image.fromarray(PHOTO), pnginfo=info)


IMAGE = Image.fromarray(PHOTO)
REFUSED = {
    "not_png": [
        b"",
        b"no image",
        saved(IMAGE, "JPEG"),
        saved(IMAGE, "GIF"),
        saved(IMAGE, "BMP"),
        saved(IMAGE, "TIFF"),
        saved(IMAGE, "WEBP"),
        saved(IMAGE, "PPM"),
    ],
    "wrong_mode": [
        saved(IMAGE.convert("RGBA")),
        saved(IMAGE.convert("P")),
        saved(IMAGE.convert("L")),
        saved(IMAGE.convert("LA")),
        saved(Image.new("I;16", (SIDE, SIDE))),
        packed(header(depth=16), (b"IDAT", zlib.compress(bytes(SIDE * (1 + 6 * SIDE)))), END),
        packed(header(last=b"\0\0\1"), IDAT, END),
    ],
    "wrong_size": [
        saved(IMAGE.resize((SIDE + 1, SIDE))),
        saved(IMAGE.resize((SIDE, SIDE - 1))),
        packed(header(width=2**31 - 1, height=2**31 - 1), IDAT, END),
        packed(header(width=0), IDAT, END),
    ],
    "extra_chunks": [
        with_text(),
        saved(IMAGE, icc_profile=b"profile"),
        saved(IMAGE, dpi=(72, 72)),
        saved(IMAGE, save_all=True, append_images=[IMAGE.rotate(90)]),
        packed(header(), (b"PLTE", bytes(768)), IDAT, END),
        packed(header(), header(), IDAT, END),
        packed(header(), (b"\xff\xff\xff\xff", b""), IDAT, END),
    ],
    "trailing_data": [
        GOOD + b"\0",
        GOOD + GOOD,
        packed(header(), (b"IDAT", zlib.compress(ROWS) + b"hidden"), END),
        packed(header(), IDAT, (b"IDAT", b"hidden"), END),
    ],
    "corrupt": [
        GOOD[:8],
        GOOD[:-1],
        GOOD[:-12],
        GOOD[: len(GOOD) // 2],
        GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:],
        packed(IDAT, END),
        packed(END),
        packed(header(), END),
        packed(header(), (b"IDAT", b""), END),
        packed(header(), IDAT, (b"IEND", b"x")),
        packed(header(last=b"\1\0\0"), IDAT, END),
        packed(header(), (b"IDAT", zlib.compress(ROWS[:-1])), END),
        packed(header(), (b"IDAT", zlib.compress(ROWS + b"\0")), END),
        packed(header(), (b"IDAT", zlib.compress(ROWS)[:-1]), END),
        packed(header(), (b"IDAT", zlib.compress(b"\5" + ROWS[1:])), END),
        packed(header(), (b"IDAT", zlib.compress(bytes(2**24), 9)[:4000]), END),
    ],
    "too_large": [GOOD + bytes(max_png_bytes(SIDE, SIDE)), bytes(50_000_000)],
}


@pytest.mark.parametrize(("outcome", "data"), [(name, data) for name, many in REFUSED.items() for data in many])
def test_refuses_with_the_reason(outcome: str, data: bytes) -> None:
    with pytest.raises(PngRefused) as refused:
        read_png(data, height=SIDE, width=SIDE)
    assert refused.value.outcome == outcome, refused.value.detail
    assert len(refused.value.detail) > 20


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_reads_what_pillow_writes(level: int) -> None:
    assert np.array_equal(read_png(saved(IMAGE, compress_level=level), height=SIDE, width=SIDE), PHOTO)


@given(
    filters=st.lists(st.integers(0, 4), min_size=SIDE, max_size=SIDE),
    cuts=st.lists(st.integers(0, 3000), max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_agrees_with_pillow_on_every_filter_and_split(filters: list[int], cuts: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 256, (SIDE, 1 + 3 * SIDE), dtype=np.uint8)
    rows[:, 0] = filters
    compressed = zlib.compress(rows.tobytes())
    edges = sorted({0, *(min(cut, len(compressed)) for cut in cuts), len(compressed)})  # An empty chunk is refused.
    idats = [(b"IDAT", compressed[a:b]) for a, b in itertools.pairwise(edges)]
    data = packed(header(), *idats, END)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(read_png(data, height=SIDE, width=SIDE), np.asarray(image))


@given(position=st.integers(0, len(GOOD) - 1), bit=st.integers(0, 7))
@settings(deadline=None)
def test_no_flipped_bit_gets_through(position: int, bit: int) -> None:
    data = bytearray(GOOD)
    data[position] ^= 1 << bit
    with pytest.raises(PngRefused):
        read_png(bytes(data), height=SIDE, width=SIDE)


def test_a_bomb_is_not_inflated() -> None:
    side = 1024
    bomb = packed(header(width=side, height=side), (b"IDAT", zlib.compress(bytes(400 * 2**20), 9)), END)
    tracemalloc.start()
    with pytest.raises(PngRefused, match="inflates to more"):
        read_png(bomb, height=side, width=side)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * side * side * 3
