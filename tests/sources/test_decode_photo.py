"""Image files of every kind become upright sRGB pixels, or are refused by name before they can hurt."""

import io
import struct
import zlib
from pathlib import Path

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


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

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
        (b"", "not an image of a known format; accepted: JPEG, PNG"),
        (b"GIF89a", "not an image|damaged"),
        (b"%PDF-1.7 and so on", "not an image of a known format"),
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
