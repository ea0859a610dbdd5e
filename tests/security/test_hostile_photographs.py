"""Photographs of strangers: decoded behind walls, within a time, and none of them stops production."""

import io
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from perturb.sandbox import photo
from perturb.sandbox.containers import scans
from perturb.sandbox.pool import Workers
from perturb.schemas.image import encode_png
from perturb.sources import decode
from perturb.sources.decode import UnusableImage, decode_photo
from perturb.sources.folder import FolderSource
from tests.support.hostile_decoder import exploit

CAT = np.ascontiguousarray(skimage.data.chelsea()[:160, :120])
ROOT = Path(__file__).parents[2]


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(CAT).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def with_repeated_scan(times: int) -> bytes:
    """Return a progressive JPEG whose last scan comes so many times more."""
    whole = jpeg(progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * times + whole[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    assert scans(with_repeated_scan(0), most=1000) < 15
    assert scans(with_repeated_scan(800), most=1000) > 800
    assert decode_photo(with_repeated_scan(20)).shape == CAT.shape
    with pytest.raises(UnusableImage, match="65 scans or more; accepted: up to 64"):
        decode_photo(with_repeated_scan(800))


def test_scans_are_counted_up_to_the_end_marker_and_not_inside_segments() -> None:
    """A camera's film after the picture has any bytes; a table may hold those of an end marker."""
    progressive = jpeg(progressive=True)
    assert scans(progressive + b"\xff\xda\0\2" * 200, most=1000) == scans(progressive, most=1000)
    hidden = b"\xff\xfe\0\6\xff\xd9\xff\xd9"
    repeated = with_repeated_scan(100)
    place = repeated.index(b"\xff\xda")
    assert scans(repeated[:place] + hidden + repeated[place:], most=1000) > 100


def test_production_goes_on_with_the_next_photograph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "bomb.jpg").write_bytes(with_repeated_scan(800))
    (tmp_path / "cat" / "good.png").write_bytes(encode_png(CAT))
    found = list(FolderSource(tmp_path).every_photo())
    assert [shown.source_id for shown in found] == ["cat/good.png"]
    assert np.array_equal(found[0].pixels, CAT)
    assert "skipping cat/bomb.jpg: it is a JPEG of 65 scans or more" in caplog.text


def test_a_photograph_that_hangs_or_kills_its_decoder_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(
        "tests.support.hostile_decoder:photograph",
        reasons=["unusable"],
        count=1,
        memory_bytes=64 * 2**20,
        seconds=2.0,
        search_path=[ROOT],
    ) as workers:
        monkeypatch.setattr(decode, "photo_workers", lambda: workers)
        for program, says in (
            ("while True: pass", "more than the 2 s"),
            ("os._exit(1)", "ended the process"),
            ("bytearray(2**30)", "out of the memory"),
            ("open('/etc/passwd')", "PermissionError"),
            (r"raise ValueError('\x1b]0;owned')", r"ValueError \\x1b]0;owned"),
        ):
            with pytest.raises(UnusableImage, match=says):
                decode_photo(exploit(program, height=64, width=64).tobytes())
        assert decode_photo(CAT.tobytes()[: 64 * 64 * 3]).shape == (64, 64, 3)


def test_no_photograph_is_decoded_in_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded in this process")

    data = jpeg()
    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Image.Image, "load", refuse)
    assert decode_photo(data).shape == CAT.shape


def test_pixels_are_those_of_the_same_code_without_walls(caplog: pytest.LogCaptureFixture) -> None:
    """Every photograph that scikit-image ships, in its own file's format."""
    caplog.set_level(logging.ERROR)
    folder = Path(skimage.data.__file__).parent
    files = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg", ".gif", ".tif", ".bmp")]
    assert len(files) >= 5
    for path in files:
        data = path.read_bytes()
        try:
            expected = photo.decode(data)
        except photo.PhotoRefused:
            with pytest.raises(UnusableImage):
                decode_photo(data)
        else:
            assert np.array_equal(decode_photo(data), expected), path.name


def test_a_forked_process_has_decoders_of_its_own() -> None:
    decode_photo(jpeg())
    ours = decode.photo_workers()
    child = os.fork()
    if child == 0:
        os._exit(0 if decode.photo_workers() is not ours else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
