"""Folders of photographs: what is known of each, and what happens to files that are none."""

import json
import logging
import os
import re
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data

from perturb.models.classifier import load_classifier
from perturb.models.judge.judge import NoJudge
from perturb.schemas.challenge import Challenge
from perturb.schemas.errors import SourceError
from perturb.schemas.settings import Settings
from perturb.sources import open_source
from perturb.sources.folder import FolderSource
from perturb.sources.sample import SampleSource
from perturb.tasks.challenge.package import make_challenge

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


def known(root: Path) -> dict[str, tuple[str | None, int | None]]:
    return {photo.source_id: (photo.subject, photo.true_class) for photo in FolderSource(root).every_photo()}


def test_levels_and_numbers_of_public_data_sets_are_not_subjects(tmp_path: Path) -> None:
    shown = {
        "tiny/train/n01440764/images/a.JPEG": ("tench", 0),
        "dogs/Images/n02085620-Chihuahua/a.jpg": ("Chihuahua", 151),
        "more/n00007846/a.jpg": ("person", None),  # a class of ImageNet beyond its 1,000
        "birds/001.Black_footed_Albatross/a.jpg": ("Black footed Albatross", None),
        "numbered/1-cat/a.jpg": ("cat", None),
        "numbered/2-dog/a.jpg": ("dog", None),
        "names/18_wheeler/a.jpg": ("18 wheeler", None),
        "names/bus/a.jpg": ("bus", None),
        "espresso/0/a.jpg": ("espresso", None),
        "7up bottle/a.jpg": ("7up bottle", None),
        "cats/images/a.jpg": ("cats", None),
    }
    for name in shown:
        save(tmp_path / name, CAT[:40, :40])
    assert known(tmp_path) == shown
    assert known(tmp_path / "cats") == {"images/a.jpg": ("cats", None)}
    assert "nothing says" not in FolderSource(tmp_path).check()


def test_images_of_which_nothing_says_what_they_show_are_told(tmp_path: Path) -> None:
    for name in ("val/a.png", "00000/b.png", "_/c.png", "00000/d.png"):
        save(tmp_path / "set" / name)
    (tmp_path / "set" / "00000" / "d.txt").write_text("a cup of coffee on a table\n")
    (tmp_path / "set" / "00000" / "b.txt").write_text("0 0.5 0.5 0.1 0.2\n")  # boxes, not a caption
    assert {name: subject for name, (subject, _) in known(tmp_path / "set").items()} == {
        "val/a.png": "val",
        "00000/b.png": "set",
        "00000/d.png": "a cup of coffee on a table",
        "_/c.png": "set",
    }
    remark = r"nothing says what 3 images show, so they are taken to show 'set', 'val'; put them in"
    assert re.search(remark, FolderSource(tmp_path / "set").check())


def test_links_are_followed_and_litter_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "set"
    for name in (
        *("set/cat/a.png", "set/cat/@eaDir/a.png/SYNOPHOTO_THUMB_XL.png", "set/__MACOSX/cat/b.png", "set/.trash/c.png"),
        *("set/cat/._a.png", "elsewhere/cup/d.png", "set/@home/e.png"),
    ):
        save(tmp_path / name)
    (root / "cup").symlink_to(tmp_path / "elsewhere" / "cup")
    (root / "cat" / "e.png").symlink_to(tmp_path / "elsewhere" / "cup" / "d.png")
    (root / "again").symlink_to(root / "cat")  # a folder that is in the tree already
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "further-up").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "cup" / "back").symlink_to(root / "cat")
    (root / "cat" / "gone.png").symlink_to(root / "nothing.png")
    (root / "cat" / "loop.png").symlink_to(root / "cat" / "loop.png")
    for kind in ("phone.HEIC", "other.heic", "web.avif", "notes.txt"):
        (root / kind).write_bytes(b"")
    assert set(known(root)) == {"cat/a.png", "cat/e.png", "cup/d.png"}
    with caplog.at_level(logging.WARNING):
        list(islice(FolderSource(root).photos(seed=1), 9))
    (line,) = (record.getMessage() for record in caplog.records if "skipped: " in record.getMessage())
    assert "2 .heic, 1 .avif, 1 .txt; 3 folders of thumbnails" in line
    assert "2 links that lead nowhere" in line
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.heic").write_bytes(b"")
    with pytest.raises(SourceError, match=r"holds no image files \(skipped: 1 \.heic\)"):
        FolderSource(tmp_path / "only").check()


def test_names_that_are_not_utf_8_cost_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, name in ((b"tass\xe9", b"caf\xe9.png"), (b"cup", b"two\nlines.PNG"), (b"cup", b"broken\xff.jpg")):
        target = os.path.join(os.fsencode(tmp_path), folder, name)  # noqa: PTH118 - bytes
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120 - bytes
        with open(target, "wb") as file:  # noqa: PTH123 - bytes
            if b"broken" not in name:
                Image.fromarray(CAT).save(file, "PNG")
    photos = {photo.source_id: photo.subject for photo in FolderSource(tmp_path).every_photo()}
    assert photos == {r"tass\xe9/caf\xe9.png": r"tass\xe9", r"cup/two\x0alines.PNG": "cup"}
    assert r"skipping cup/broken\xff.jpg: it is not an image" in caplog.text
    assert all(record.getMessage().encode() for record in caplog.records)


def test_home_folder_is_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "my cats" / "a.png")
    assert known(Path("~/my cats")) == {"a.png": ("my cats", None)}
    monkeypatch.chdir(tmp_path / "my cats")
    assert known(Path("../my cats/.")) == {"a.png": ("my cats", None)}
    with pytest.raises(SourceError, match=r"folder:~nobody-of-this-name/x: .*home directory"):
        FolderSource("~nobody-of-this-name/x")
    with pytest.raises(SourceError, match="is not there; accepted: a folder"):
        FolderSource(tmp_path / "gone")


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
    said = {
        Path(photo.source_id).stem: (photo.subject, photo.true_class, photo.author, photo.license)
        for photo in FolderSource(tmp_path).every_photo()
    }
    assert said == {
        "one": ("cat, sitting", 285, "Stefan", "CC0"),
        "two": ("kitten", None, None, None),
        "three": ("espresso", 967, None, None),
        "four": ("train", None, None, None),
    }


def write_parquet(path: Path, columns: dict[str, list[object]], names: list[str] | None = None) -> None:
    table = pa.table(columns)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path)


@pytest.mark.parametrize("folder", ["", "train"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "metadata.csv",
            b"\xef\xbb\xbffile_name;label;class_index\r\na.png;cat;285,0\r\nb/c.png;cup, white;\r\n;;\r\n",
        ),
        ("metadata.csv", b"sep=,\nfile_name,label,class_index\na.png,cat,285.0\n\nb\\c.png,'cup, white',nan,,\n"),
        ("metadata.csv", "file_name\tlabel\tclass_index\na.png\tcat\t285\nb/c.png\tcup, white\t\n".encode("utf-16")),
        ("Metadata.CSV", b' File_Name , Label,class_index\r./A.PNG,cat,285\rb/c.png,"cup, white",\r'),
        (
            "metadata.jsonl",
            (
                b'\xef\xbb\xbf{"file_name": "a.png", "label": "cat", "class_index": 285, "boxes": [1, 2]}\r\n\r\n'
                b'{"file_name": "b/c.png", "text": "cup, white", "class_index": NaN}'
            ),
        ),
        ("metadata.parquet", b""),
    ],
)
def test_tables_are_read_as_people_write_them(tmp_path: Path, folder: str, name: str, content: bytes) -> None:
    save(tmp_path / folder / "a.png")
    save(tmp_path / folder / "b" / "c.png", CUP)
    content = content.replace(b"'cup, white'", b'"cup, white"')
    if name.endswith("parquet"):
        columns: dict[str, list[object]] = {"file_name": ["a.png", "b/c.png"], "class_index": [285.0, None]}
        write_parquet(tmp_path / folder / name, columns | {"label": [1, 0]}, ["cup, white", "cat"])
    else:
        (tmp_path / folder / name).write_bytes(content)
    assert sorted(known(tmp_path).values(), key=str) == [("cat", 285), ("cup, white", None)]


def test_nearest_table_counts_and_labels_may_be_wordnet_ids(tmp_path: Path) -> None:
    save(tmp_path / "zoo" / "e\u0301cole.png")  # accents apart, as macOS writes them
    save(tmp_path / "zoo" / "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nzoo/b.png,far\nzoo/école.png,school\n")
    (tmp_path / "zoo" / "metadata.jsonl").write_text('{"file_name": "b.png", "label": "n01440764"}\n')
    assert set(known(tmp_path).values()) == {("school", None), ("tench", 0)}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "csv",
            b"file,label\na.png,cat\n",
            r"metadata.csv line 1 has no column file_name; it has file, label; accepted",
        ),
        (
            "csv",
            b'file_name,label\na.png,"cat\nb.png,dog\n',
            "line 2: the quote before 'cat' is never closed",
        ),
        ("csv", b"", "line 1 has no column file_name; it has nothing"),
        ("csv", b"file_name,label\na.png,cat\na.png,cat, sitting\n", "line 3 has 3 values for 2 columns; put a value"),
        ("csv", b"file_name,label\na.png,caf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9\); save the table as UTF-8"),
        ("csv", b"file_name,class_index\na.png,285.5\n", "line 2: class_index '285.5' is not an ImageNet-1k class"),
        ("csv", b"file_name,label\n..\\..\\a.png,cat\n", "line 2: file_name .* leads out of"),
        ("jsonl", b'{"file_name": "a.png"}\n[1]\n', "line 2 is a JSON list; accepted: one object a line"),
        ("jsonl", b'\n{"file_name": "a.png"\n', "metadata.jsonl line 2 is not JSON .*; accepted: one object a line"),
        ("jsonl", b'{"file_name": ["a.png"]}\n', "line 1 has no usable file_name"),
        ("jsonl", b'{"file_name": "a.png", "label": ["cat", "dog"]}\n', "line 1: label is a list; accepted: one text"),
        ("jsonl", b'{"file_name": "a.png", "class_index": true}\n', "line 1: class_index 'True' is not an ImageNet-1k"),
        ("parquet", b"PAR1 half a download", r"metadata.parquet can't be read \("),
    ],
)
def test_wrong_tables_are_named_with_their_line(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    save(tmp_path / "a.png")
    (tmp_path / f"metadata.{name}").write_bytes(content)
    with pytest.raises(SourceError, match=complaint):
        FolderSource(tmp_path).check()


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


@pytest.mark.slow
def test_sample_shows_a_dozen_classes_and_the_classifier_sees_them() -> None:
    """Crops whose class is stated are of it; elsewhere the subject decides, which the judge's own tests cover."""
    settings = Settings()
    network = load_classifier(settings.classifier)
    found = set()
    for photo in islice(SampleSource().photos(seed=5), 56):
        made = make_challenge(photo, classifier=network, judge=NoJudge(), settings=settings, now=datetime.now(UTC))
        if isinstance(made, Challenge):
            found.add(made.task.true_label_name)
    stated = {"disk brake", "carton", "space shuttle", "crash helmet", "Windsor tie", "military uniform"}
    assert found >= stated | {"tripod", "Egyptian cat", "tiger cat", "espresso", "moped", "missile"}


def test_sources_are_opened_by_their_form(tmp_path: Path) -> None:
    assert open_source(Settings(source="sample")).check().startswith("sample answers")
    save(tmp_path / "cat" / "a.png")
    assert "has 1 image files" in open_source(Settings(source=f"folder:{tmp_path}")).check()
    with pytest.raises(SourceError, match="PERTURB_PEXELS__API_KEY"):
        open_source(Settings(source="pexels"))
