"""Image files of every kind become upright sRGB pixels, or are refused by name before they can hurt."""

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from skimage import data

from perturb.schemas.image import Pixels
from perturb.sources.decode import MAX_PIXELS, UnusableImage, decode_photo, read_photo

CAT = data.chelsea()[:120, :160]


def encoded(image: Image.Image | Pixels, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile_with_red_and_blue_swapped() -> bytes:
    """sRGB's own profile, in which the tags of the red and the blue primary have changed places."""
    profile = srgb_profile()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", right)


def segment(code: int, body: bytes) -> bytes:
    return b"\xff" + bytes([code]) + struct.pack(">H", 2 + len(body)) + body


def exif_block(*entries: tuple[int, int, int, bytes], rest: bytes = b"") -> bytes:
    """A big-endian EXIF block with one directory of (tag, type, count, value of four bytes)."""
    directory = b"".join(struct.pack(">HHI", tag, kind, count) + value for tag, kind, count, value in entries)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + directory + bytes(4) + rest


QUARTER_TURN = (0x0112, 3, 1, b"\0\x06\0\0")
FRACTION_FOR_A_MAKER = (0x010F, 5, 1, struct.pack(">I", 38))
NOISE = bytes((41 * number) % 256 for number in range(400))


def jpeg_with(*segments: bytes, pixels: Pixels = CAT) -> bytes:
    plain = encoded(pixels, "JPEG", quality=95)
    return plain[:2] + b"".join(segments) + plain[2:]


def png_with(*chunks: bytes, pixels: Pixels = CAT) -> bytes:
    plain = encoded(pixels)
    return plain[:33] + b"".join(chunks) + plain[33:]


def webp_with_noise_as_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    plain = encoded(CAT, "WEBP", lossless=True, exif=exif)
    start = plain.index(b"EXIF") + 8
    return plain[:start] + NOISE[: len(plain) - start]


def png_that_declares(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_plain_pixels_come_back_as_they_are() -> None:
    assert np.array_equal(decode_photo(encoded(CAT)), CAT)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    assert np.array_equal(decode_photo(encoded(CAT, exif=exif)), np.rot90(CAT, -1))


def test_damaged_metadata_beside_whole_pixels_is_ignored() -> None:
    """A camera's tag of the wrong type ends Pillow's own transposition, a long comment its reading of a PNG."""
    # Two tags: Make as a fraction, which stands behind them, and the orientation "turned to the left".
    make, turned = (0x010F, 5, 1, 38), (0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH" + 2 * "HHII" + "III", 8, 2, *make, *turned, 0, 1, 3)
    assert decode_photo(encoded(CAT, "JPEG", exif=exif)).shape == (160, 120, 3)
    comments = PngImagePlugin.PngInfo()
    comments.add_text("history", "x" * 3_000_000, zip=True)
    long = encoded(CAT, pnginfo=comments)
    assert np.array_equal(decode_photo(long), CAT)
    damaged = bytearray(long)
    damaged[damaged.index(b"zTXt") + 20] ^= 1
    assert np.array_equal(decode_photo(bytes(damaged)), CAT)


def test_icc_profile_is_converted_to_srgb() -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    as_blue = decode_photo(encoded(red, icc_profile=profile_with_red_and_blue_swapped()))
    assert as_blue[..., 2].min() > 250
    assert as_blue[..., 0].max() < 5
    assert np.abs(decode_photo(encoded(CAT, icc_profile=srgb_profile())).astype(int) - CAT).max() <= 1


@pytest.mark.parametrize("profile", [b"no profile at all", srgb_profile()])
def test_profile_that_does_not_fit_is_left_out_of_account(profile: bytes) -> None:
    grey = CAT[..., 0].copy()
    pixels = decode_photo(encoded(grey, icc_profile=profile))
    assert np.array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_transparency_is_laid_on_white() -> None:
    alpha = np.full(CAT.shape[:2], 255, np.uint8)
    alpha[:, :80] = 0
    pixels = decode_photo(encoded(np.dstack([CAT, alpha])))
    assert (pixels[:, :80] == 255).all()
    assert np.array_equal(pixels[:, 80:], CAT[:, 80:])
    with_grey = decode_photo(encoded(np.dstack([CAT[..., 0], alpha])))
    assert (with_grey[:, :80] == 255).all()
    assert np.array_equal(with_grey[:, 80:, 1], CAT[:, 80:, 0])


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    pixels = decode_photo(encoded(ramp))
    assert np.array_equal(pixels[..., 0], np.round(ramp / 257).astype(np.uint8))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("L", "JPEG"), ("CMYK", "TIFF")]
)
def test_other_colour_modes_look_the_same(mode: str, kind: str) -> None:
    image = Image.fromarray(CAT).convert(mode)
    pixels = decode_photo(encoded(image, kind))
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == CAT.shape
    assert np.abs(pixels - expected).mean() < 6


@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 8_000), (70_000, 1_000)])
def test_too_many_pixels_are_refused_by_the_header(size: tuple[int, int]) -> None:
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(UnusableImage, match=r"pixels.*accepted: up to 64 megapixels"):
        decode_photo(png_that_declares(*size))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"not an image of a known format \(it is empty\); accepted: JPEG, PNG"),
        (b"GIF89a", "not an image|damaged"),
        (b"%PDF-1.7 and so on", "not an image of a known format"),
        (b"\n<html>404</html>", r"not an image of a known format \(it is a web page"),
        (b"\0\0\0\x1cftypheic", r"not an image of a known format \(it is HEIC or a video\)"),
        (encoded(CAT)[:2000], "damaged"),
        (encoded(CAT[:20]), "only 160 x 20 pixels"),
        (encoded(np.zeros((40, 40), np.float32), "TIFF"), r"32 bits each\); accepted: 8 or 16"),
        (encoded(CAT, "PPM"), "not an image of a known format"),
    ],
)
def test_refusals_say_what_is_wrong(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        decode_photo(content)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableImage, match="can't be read"):
        read_photo(tmp_path / "missing.png")


@pytest.mark.parametrize(
    "content",
    [
        webp_with_noise_as_exif(),
        png_with(chunk(b"tEXt", b"Comment\0by hand", checksum=7)),
        png_with(chunk(b"zTXt", b"History\0\0" + zlib.compress(bytes(3 * 2**20)))),
        png_with(chunk(b"iCCP", b"large\0\0" + zlib.compress(bytes(2 * 2**20)))),
        png_with(chunk(b"iCCP", b"noise\0\0" + NOISE)),
        png_with(chunk(b"pHYs", b"\1"), chunk(b"tIME", b"\1"), chunk(b"tRNS", b"\1")),
        png_with(chunk(b"eXIf", NOISE)),
        encoded(CAT)[:-12],  # without its last chunk
        encoded(CAT)[:-12] + b"\0\0\1\0tEXtcut",
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_metadata_costs_no_pixel(content: bytes) -> None:
    assert np.array_equal(decode_photo(content), CAT)


@pytest.mark.parametrize(
    "segments",
    [
        (segment(0xE1, b"Exif\0\0" + NOISE),),
        (segment(0xE1, exif_block((0x010F, 2, 4000, b"\0\0\0\x26"))),),
        (segment(0xE1, exif_block((0x0112, 2, 2, b"6\0\0\0"))), segment(0xED, b"Photoshop 3.0\08BIM" + NOISE)),
        (segment(0xE2, b"MPF\0" + NOISE), segment(0xFE, NOISE)),
        (segment(0xE2, b"ICC_PROFILE\0\1\1" + NOISE),),
        (segment(0xE2, b"ICC_PROFILE\0\1\2" + srgb_profile()[:100]),),  # the second part is missing
        (segment(0xFE, b"too short"), b"stray bytes"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_damaged_segments_of_a_jpeg_cost_no_pixel(segments: tuple[bytes, ...]) -> None:
    assert np.array_equal(decode_photo(jpeg_with(*segments)), decode_photo(jpeg_with()))


def test_orientation_is_read_beside_damaged_tags() -> None:
    block = exif_block(FRACTION_FOR_A_MAKER, QUARTER_TURN, rest=struct.pack(">II", 1, 0))
    upright = np.rot90(decode_photo(jpeg_with()), -1)
    assert np.array_equal(decode_photo(jpeg_with(segment(0xE1, block))), upright)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"'
    assert np.array_equal(decode_photo(jpeg_with(segment(0xE1, xmp))), upright)
    assert np.array_equal(decode_photo(png_with(chunk(b"eXIf", block[6:]))), np.rot90(CAT, -1))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True, "quality": 100}]
)
def test_jpeg_without_its_end_is_used_only_where_every_pixel_is_there(options: dict[str, Any]) -> None:
    content = encoded(CAT, "JPEG", **options)
    whole = decode_photo(content)
    assert np.array_equal(decode_photo(content[:-2]), whole)
    for missing in (*range(1, 40), *range(40, len(content) - 700, 9)):
        with contextlib.suppress(UnusableImage):
            assert np.array_equal(decode_photo(content[:-missing]), whole)
    with pytest.raises(UnusableImage, match="truncated: pixels are missing"):
        decode_photo(content[:-30])
    with pytest.raises(UnusableImage, match="truncated"):
        decode_photo(content[:-900] + bytes(900))  # a download that was reserved on the disk and never filled


SEEDS = [encoded(CAT[:40, :40], kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8), st.data())
def test_damaged_files_are_decoded_or_refused(seed: bytes, edits: list[tuple[int, int]], choice: st.DataObject) -> None:
    content = bytearray(seed)
    for place, value in edits:
        content[place % len(content)] = value
    cut = choice.draw(st.integers(0, len(content)))
    try:
        pixels = decode_photo(bytes(content[:cut]))
    except UnusableImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
