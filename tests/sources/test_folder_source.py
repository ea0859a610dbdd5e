"""Folders of photographs: what is known of each, and what happens to files that are none."""

import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from perturb.schemas.errors import SourceError
from perturb.schemas.settings import Settings
from perturb.sources import open_source
from perturb.sources.folder import FolderSource
from perturb.sources.sample import SampleSource

CAT, CUP = data.chelsea(), data.coffee()


def save(path: Path, pixels: np.ndarray = CAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_subjects_come_from_parent_folders(tmp_path: Path) -> None:
    save(tmp_path / "egyptian_cat" / "a.png")
    save(tmp_path / "drinks" / "hot" / "b.jpg", CUP)
    save(tmp_path / "n01440764" / "c.webp")
    save(tmp_path / ".thumbnails" / "d.png")
    (tmp_path / "drinks" / "notes.txt").write_text("not asked for")
    photos = {photo.source_id: photo for photo in FolderSource(tmp_path).every_photo()}
    assert {name: (photo.subject, photo.true_class) for name, photo in photos.items()} == {
        "egyptian_cat/a.png": ("egyptian cat", None),
        "drinks/hot/b.jpg": ("hot", None),
        "n01440764/c.webp": ("tench", 0),
    }
    assert np.array_equal(photos["egyptian_cat/a.png"].pixels, CAT)
    assert all(photo.source == "folder" for photo in photos.values())


def test_metadata_csv_says_more_than_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "train" / "one.png")
    save(tmp_path / "train" / "deep" / "two.png")
    save(tmp_path / "train" / "three.png")
    save(tmp_path / "train" / "four.png")
    (tmp_path / "train" / "metadata.csv").write_text(
        "file_name,label,class_index,author,license\n"
        'one.png,"cat, sitting",285,Stefan,CC0\n'
        "deep/two.png,kitten,,,\n"
        "three.png,,967,,\n"
        "gone.png,dog,207,,\n"
    )
    known = {
        Path(photo.source_id).stem: (photo.subject, photo.true_class, photo.author, photo.license)
        for photo in FolderSource(tmp_path).every_photo()
    }
    assert known == {
        "one": ("cat, sitting", 285, "Stefan", "CC0"),
        "two": ("kitten", None, None, None),
        "three": ("espresso", 967, None, None),
        "four": ("train", None, None, None),
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("../outside.png,cat,285", r"line 2: file_name '../outside.png' leads out of"),
        ("/etc/passwd.png,cat,285", "leads out of"),
        ("deep/../../outside.png,cat,285", "leads out of"),
        ("one.png,cat,1000", "class_index '1000' is no ImageNet-1k class; accepted: 0 to 999"),
        ("one.png,cat,tabby", "class_index 'tabby'"),
        ("one.png,cat,-1", "class_index '-1'"),
        (",cat,285", "line 2 has no usable file_name"),
    ],
)
def test_wrong_metadata_is_named_by_line(tmp_path: Path, line: str, complaint: str) -> None:
    save(tmp_path / "outside.png")
    save(tmp_path / "photos" / "one.png")
    (tmp_path / "photos" / "metadata.csv").write_text(f"file_name,label,class_index\n{line}\n")
    with pytest.raises(SourceError, match=complaint):
        FolderSource(tmp_path / "photos").check()


def test_bad_files_are_skipped_once_with_their_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "cat" / "good.png")
    save(tmp_path / "cat" / "other.png", CUP)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xff and then nothing")
    (tmp_path / "cat" / "empty.png").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        names = [photo.source_id for photo in islice(FolderSource(tmp_path).photos(seed=1), 6)]
    assert sorted(set(names)) == ["cat/good.png", "cat/other.png"]
    assert len(names) == 6
    skipped = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(message.split(":")[0] for message in skipped) == ["skipping cat/broken.jpg", "skipping cat/empty.png"]
    assert any("gave 2 images, skipped 2" in record.getMessage() for record in caplog.records)


def test_folder_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no image files; accepted: a folder with JPEG"):
        FolderSource(tmp_path).check()
    (tmp_path / "photo.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match=r"has no usable image \(1 files were skipped"):
        FolderSource(tmp_path).check()
    with pytest.raises(SourceError, match="is not a directory"):
        FolderSource(tmp_path / "photo.jpg")


def test_seed_fixes_the_order(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / "cat" / f"{number}.png", CAT[number : number + 50, :50])

    def order(seed: int) -> list[str]:
        return [photo.source_id for photo in islice(FolderSource(tmp_path).photos(seed=seed), 24)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert len(set(order(1)[:12])) == len(set(order(1)[12:])) == 12


def test_sample_gives_many_licensed_images_in_a_fixed_order() -> None:
    photos = list(islice(SampleSource().photos(seed=5), 80))
    assert len({photo.source_id for photo in photos}) == 80
    assert len({photo.pixels.tobytes() for photo in photos}) == 80
    assert all(photo.license and photo.author and photo.subject for photo in photos)
    again = list(islice(SampleSource().photos(seed=5), 80))
    assert [photo.source_id for photo in again] == [photo.source_id for photo in photos]
    photo = next(photo for photo in photos if photo.source_id.startswith("chelsea@"))
    left, top, side = map(int, photo.source_id.partition("@")[2].split(","))
    assert np.array_equal(photo.pixels, CAT[top : top + side, left : left + side])


def test_sources_are_opened_by_their_form(tmp_path: Path) -> None:
    assert open_source(Settings(source="sample")).check().startswith("sample answers")
    save(tmp_path / "cat" / "a.png")
    assert "has 1 image files" in open_source(Settings(source=f"folder:{tmp_path}")).check()
    with pytest.raises(SourceError, match="PERTURB_PEXELS__API_KEY"):
        open_source(Settings(source="pexels"))
