"""Where a PNG is promised nothing else is read, and no file costs more to check than its size."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from perturb.sandbox.stored import decode_stored, pair_pixels
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import encode_png, pixel_identity
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused, check_png, max_idat_chunks

PHOTO = np.ascontiguousarray(skimage.data.coffee()[:224, :224])
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 224 224\n%%EndComments\nshowpage\n%%EOF\n"


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def with_pieces(pieces: list[bytes]) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 224, 224, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(b"IDAT", piece) for piece in pieces) + chunk(b"IEND", b"")


@pytest.mark.parametrize("foreign", [EPS, EPS.ljust(5000), b"", encode_png(PHOTO)[:-20]])
def test_a_corpus_of_others_starts_no_other_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: bytes
) -> None:
    """Pillow hands EPS to Ghostscript, where a program `gs` is found."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CorpusError, match=r"can't be shown.*run perturb audit"):
        pair_pixels(Pair(encode_png(PHOTO), foreign, {"true_label": 1}))
    assert not (tmp_path / "called").exists()


def test_an_image_that_is_not_the_one_of_its_row_is_not_shown() -> None:
    other = np.roll(PHOTO, 1, axis=0)
    row = {"original_sha256": pixel_identity(PHOTO), "perturbed_sha256": pixel_identity(other)}
    original, perturbed = pair_pixels(Pair(encode_png(PHOTO), encode_png(other), row))
    assert np.array_equal(original, PHOTO)
    assert np.array_equal(perturbed, other)
    with pytest.raises(CorpusError, match="the perturbed image of a record has other pixels"):
        pair_pixels(Pair(encode_png(PHOTO), encode_png(PHOTO), row))


def test_a_row_that_states_a_huge_image_costs_nothing() -> None:
    side = 2**16
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    (refused,) = decode_stored([(bomb, side, side)])
    assert isinstance(refused, PngRefused)
    assert "at most 16777216 pixels" in refused.detail


def test_many_chunks_are_refused_at_the_first_too_many() -> None:
    compressed = check_png(encode_png(PHOTO), height=224, width=224)
    most = max_idat_chunks(224, 224)
    size = -(-len(compressed) // most)
    pieces = [compressed[start : start + size] for start in range(0, len(compressed), size)]
    assert check_png(with_pieces(pieces), height=224, width=224) == compressed
    with pytest.raises(PngRefused, match=f"more than {most} IDAT chunks"):
        check_png(with_pieces([b"x"] * 5000), height=224, width=224)
    with pytest.raises(PngRefused, match="an empty IDAT chunk"):
        check_png(with_pieces([b""] * 5000), height=224, width=224)


@pytest.mark.parametrize("side", [224, 512, 1024])
def test_files_of_common_encoders_have_few_enough_chunks(side: int) -> None:
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=1)
    for data in (file.getvalue(), cv2.imencode(".png", noise)[1].tobytes()):
        (pixels,) = decode_stored([(data, side, side)])
        assert not isinstance(pixels, PngRefused)
        assert pixels.shape == noise.shape
