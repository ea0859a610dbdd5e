"""Datasets of the Hugging Face form, read from local folders that `load_dataset` accepts."""

import io
from itertools import islice
from pathlib import Path
from typing import Any

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
