"""Datasets of the Hugging Face form, read from local folders that `load_dataset` accepts."""

import io
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from skimage import data

from perturb.schemas.errors import SourceError
from perturb.schemas.settings import HubSettings
from perturb.sources.hub import HubSource

CAT, CUP = data.chelsea(), data.coffee()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, columns: dict[str, list[Any]], features: Features) -> str:
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(columns, features=features).to_parquet(folder / "train.parquet")
    return str(folder)


def test_image_folder_gives_labels_as_subjects(tmp_path: Path) -> None:
    for label, pixels in (("tabby_cat", CAT), ("espresso", CUP)):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / label / f"{label}.png")
    source = HubSource(str(tmp_path), HubSettings())
    photos = {photo.subject: photo for photo in islice(source.photos(seed=1), 4)}
    assert set(photos) == {"tabby cat", "espresso"}
    assert np.array_equal(photos["tabby cat"].pixels, CAT)
    assert photos["espresso"].source_id.startswith("espresso.png#")
    assert photos["espresso"].source == f"hub:{tmp_path.name}"
    assert source.check().startswith(f"hub:{tmp_path.name} answers")


def test_columns_are_taken_from_the_settings(tmp_path: Path) -> None:
    name = write(
        tmp_path / "set",
        {"picture": [{"bytes": png(CAT), "path": None}] * 2, "wnid": [285, 967], "what": ["cat", None]},
        Features({"picture": ImageFeature(), "wnid": Value("int64"), "what": Value("string")}),
    )
    settings = HubSettings(image_column="picture", label_column="wnid", subject_column="what")
    photos = {photo.true_class: photo for photo in islice(HubSource(name, settings).photos(seed=1), 2)}
    assert {true_class: photo.subject for true_class, photo in photos.items()} == {285: "cat", 967: "espresso"}
    assert np.array_equal(photos[285].pixels, CAT)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    name = write(
        tmp_path / "set",
        {"image": [{"bytes": png(CAT), "path": None}], "kind": [0]},
        Features({"image": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"])}),
    )
    with pytest.raises(SourceError, match="no column 'foto'; it has image, kind"):
        HubSource(name, HubSettings(image_column="foto")).check()
    with pytest.raises(SourceError, match=r"set hub.subject_column or hub.label_column to one of its columns: image"):
        HubSource(name, HubSettings()).check()
    with pytest.raises(SourceError, match=r"'kind' has 2 classes.*set it as hub.subject_column instead"):
        HubSource(name, HubSettings(label_column="kind")).check()
    with pytest.raises(SourceError, match=r"can't be read .*Bad split"):
        HubSource(name, HubSettings(split="holdout", subject_column="kind")).check()
    with pytest.raises(SourceError, match=r"can't be read .*; accepted: a dataset's id on the Hub or a local folder"):
        HubSource(str(tmp_path / "nowhere"), HubSettings()).check()
    assert HubSource(name, HubSettings(subject_column="kind")).check().endswith("subject 'cat'")


def test_rows_cannot_point_outside_their_dataset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(CUP))
    inside = tmp_path / "set" / "inside.png"
    inside.parent.mkdir()
    inside.write_bytes(png(CAT))
    paths = [str(secret), str(inside.parent / ".." / "secret.png"), f"file://{secret}", "http://127.0.0.1:9/x.png",
             str(inside)]  # fmt: skip
    name = write(
        inside.parent,
        {"image": [{"bytes": None, "path": path} for path in paths], "label": ["cat"] * len(paths)},
        Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("string")}),
    )
    photos = list(islice(HubSource(name, HubSettings()).photos(seed=1), 3))
    assert all(np.array_equal(photo.pixels, CAT) for photo in photos)
    assert caplog.text.count("it refers to a file outside its dataset") >= 4


def test_unusable_rows_are_skipped_until_they_are_too_many(tmp_path: Path) -> None:
    features = Features({"image": ImageFeature(), "label": Value("string")})
    some = [{"bytes": b"broken", "path": None}, {"bytes": png(CAT), "path": None}]
    name = write(tmp_path / "some", {"image": some, "label": ["cat", "cat"]}, features)
    assert len(list(islice(HubSource(name, HubSettings()).photos(seed=1), 3))) == 3
    name = write(tmp_path / "none", {"image": some[:1] * 3, "label": ["cat"] * 3}, features)
    with pytest.raises(SourceError, match="50 rows one after the other cannot be used; the last: it is not an image"):
        next(HubSource(name, HubSettings()).photos(seed=1))


def save(path: Path, pixels: np.ndarray = CAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def subjects(name: Path | str, settings: HubSettings | None = None) -> set[tuple[str | None, int | None]]:
    photos = islice(HubSource(str(name), settings or HubSettings()).photos(seed=1), 12)
    return {(photo.subject, photo.true_class) for photo in photos}


def test_local_trees_of_mixed_shape_lose_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`datasets` gives no labels to folders of different depth, nor to splits whose first holds one class."""
    root = tmp_path / "set"
    for name in ("cat/a.png", "b.png", "n07920052/images/c.jpg", "cat/@eaDir/a.png", "cup/d.png"):
        save(root / name)
    (root / "cup" / "link.png").symlink_to(root / "cat" / "a.png")
    (root / "cat" / "phone.heic").write_bytes(b"")
    assert subjects(root) == {("cat", None), ("set", None), ("espresso", 967), ("cup", None)}
    assert "@eaDir/a.png is hidden or a thumbnail" in caplog.text
    assert HubSource(str(root), HubSettings()).check().endswith("does not use all files; skipped: 1 .heic")
    for name in ("train/cat/a.png", "test/cup/b.png"):
        save(tmp_path / "splits" / name)
    assert subjects(tmp_path / "splits") == {("cat", None)}
    assert "split 'train' does not use all files; skipped: 1 of split 'test'" in caplog.text
    assert subjects(tmp_path / "splits", HubSettings(split="test")) == {("cup", None)}


def test_local_datasets_come_in_many_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = Features({"png": ImageFeature(), "label": Value("string")})
    rows = Dataset.from_dict({"png": [{"bytes": png(CAT), "path": None}] * 2, "label": ["cat", "n07920052"]}, features)
    monkeypatch.setenv("HOME", str(tmp_path))
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "one file.parquet")
    with ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("set/cat/a.png", png(CAT))
        archive.writestr("set/n07920052/b.png", png(CUP))
    save(tmp_path / "table" / "a.png")
    (tmp_path / "table" / "list.csv").write_text("image,label\na.png,cat\na.png,n07920052\n../saved/x.png,dog\n")
    for name in ("saved", "one file.parquet", "images.zip", "table"):
        assert subjects(f"~/{name}") == {("cat", None), ("espresso", 967)}, name
    with pytest.raises(SourceError, match=r"saved is one saved split, not 'test'; set hub.split to train"):
        HubSource("~/saved", HubSettings(split="test")).check()
    with pytest.raises(SourceError, match=r"a.png is not a dataset; accepted: a folder, or .parquet"):
        HubSource("~/table/a.png", HubSettings()).check()
    with pytest.raises(SourceError, match=r"hub:~nobody-of-this-name/x: .*; accepted: a dataset's id"):
        HubSource("~nobody-of-this-name/x", HubSettings())
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to(tmp_path / "table")
    with pytest.raises(SourceError, match="a tree of image files is read by source folder:DIR"):
        HubSource("~/links", HubSettings()).check()
