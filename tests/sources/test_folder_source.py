"""Folders of photographs: what is known of each, and what happens to files that are none."""

import json
import logging
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize(
    ("path", "subject", "true_class"),
    [
        ("train/n07920052/images/n07920052_0.png", "espresso", 967),
        ("images/001.Black_footed_Albatross/a.png", "Black footed Albatross", None),
        ("cats/_/g.png", "cats", None),
        ("dogs/00000/000000001.png", "dogs", None),
        ("7up bottle/a.png", "7up bottle", None),
    ],
)
def test_subjects_are_found_in_the_trees_of_data_sets(
    path: str, subject: str, true_class: int | None, tmp_path: Path
) -> None:
    save(tmp_path / path)
    (photo,) = FolderSource(tmp_path).every_photo()
    assert (photo.source_id, photo.subject, photo.true_class) == (path, subject, true_class)


def test_links_are_followed_and_what_disks_and_archives_leave_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "elsewhere" / "coffee" / "a.png", CUP)
    folder = tmp_path / "photos"
    save(folder / "cat" / "a.png")
    for litter in ("@eaDir/a.png/THUMB.png", "__MACOSX/b.png", "._a.png"):
        save(folder / "cat" / litter)
    (folder / "cat" / "b.HEIC").write_bytes(b"heic")
    (folder / "coffee").symlink_to(tmp_path / "elsewhere" / "coffee")
    (folder / "cat" / "up").symlink_to(folder)
    (folder / "cat" / "broken.png").symlink_to(tmp_path / "nothing.png")
    found = {photo.source_id: photo.subject for photo in FolderSource(folder).every_photo()}
    assert found == {"cat/a.png": "cat", "coffee/a.png": "coffee"}
    assert "holds images of other formats, which are skipped: 1 .heic" in caplog.text


def test_names_that_are_not_utf8_are_carried_in_a_printable_form(tmp_path: Path) -> None:
    names = [b"caf\xe9.png", b"back\\slash.png", b"two\nlines.png", "été.png".encode()]
    for name in names:
        save(tmp_path / os.fsdecode(b"tass\xe9") / os.fsdecode(name))
    photos = list(FolderSource(tmp_path).every_photo())
    assert {photo.source_id for photo in photos} == {
        rf"tass\xe9/{name}" for name in (r"caf\xe9.png", r"back\\slash.png", r"two\nlines.png", "été.png")
    }
    assert {photo.subject for photo in photos} == {r"tass\xe9"}


@pytest.mark.parametrize("kind", ["semicolons", "jsonl", "parquet"])
def test_metadata_is_read_in_every_form_of_an_image_folder(kind: str, tmp_path: Path) -> None:
    rows = [
        {"file_name": "one.png", "label": "cat, sitting", "class_index": 285.0},
        {"file_name": "two.png", "label": "cup", "class_index": None},
    ]
    for row in rows:
        save(tmp_path / str(row["file_name"]))
    if kind == "semicolons":
        text = "\ufefffile_name;label;class_index\r\none.png;cat, sitting;285.0\r\ntwo.png;cup;\r\n"
        (tmp_path / "metadata.csv").write_bytes(text.encode())
    elif kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    found = {photo.source_id: (photo.subject, photo.true_class) for photo in FolderSource(tmp_path).every_photo()}
    assert found == {"one.png": ("cat, sitting", 285), "two.png": ("cup", None)}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metadata.jsonl", b"[1]\n", "line 1 is not an object"),
        ("metadata.jsonl", b"{\n", r"metadata.jsonl can't be read .*; accepted: one JSON object a line"),
        ("metadata.parquet", b"no", r"metadata.parquet can't be read .*; accepted: a Parquet file"),
        (
            "metadata.csv",
            "file_name\ngröße.png\n".encode("utf-16"),
            "metadata.csv can't be read .*accepted: UTF-8 CSV",
        ),
    ],
)
def test_a_table_that_cannot_be_read_is_named(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    save(tmp_path / "one.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=sentence):
        FolderSource(tmp_path).check()


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
        ("one.png,cat,1000", "class_index '1000' is not an ImageNet-1k class; accepted: 0 to 999"),
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
