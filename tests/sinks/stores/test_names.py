"""Stores and links under names that people give: a sentence instead of a surprise."""

import errno
from pathlib import Path

import pytest

from perturb.schemas.errors import PerturbError, StoreError
from perturb.schemas.settings import S3Settings
from perturb.sinks.stores.directory import DirectoryStore
from perturb.sinks.stores.open import open_store
from tests.support.fake_s3 import fake_s3


@pytest.mark.parametrize("endpoint", ["https://bucket.s3.example.com", "https://s3.example.com/bucket/"])
def test_an_endpoint_that_names_the_bucket_is_refused(endpoint: str) -> None:
    with pytest.raises(StoreError, match="names the bucket too; leave it out there"):
        open_store("s3://bucket/prefix", S3Settings(endpoint_url=endpoint))


@pytest.mark.parametrize("name", ["s3:/bucket", "~nobody-here/x", "$HOME/x", "file://relative", "ftp://x/y", "a::b/c"])
def test_a_name_that_cannot_be_meant_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is not supported; accepted: a "):
        open_store(name)


def test_a_file_url_is_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    store = open_store(folder.as_uri())
    assert isinstance(store, DirectoryStore)
    assert store.root == folder


def test_a_name_that_begins_with_a_tilde_below_a_folder_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("./~x").put_new("a", b"")
    assert (tmp_path / "~x" / "a").is_file()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    store = open_store(str(tmp_path / "photo.png"))
    with pytest.raises(StoreError, match="is a file"):
        store.folders("sealed/")


def test_a_service_that_refuses_checksums_is_written_to_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with fake_s3(takes_checksums=False) as service:
        settings = S3Settings(endpoint_url=service.endpoint, region="us-east-1", addressing_style="path")
        store = open_store("s3://bucket/corpus", settings)
        assert store.put_new("a/b", b"one")
        assert not store.put_new("a/b", b"two")
        strict = settings.model_copy(update={"checksums": "when_supported"})
        with pytest.raises(StoreError, match=r"refuses a header .*set s3\.checksums = 'never'"):
            open_store("s3://bucket/corpus", strict).put_new("a/c", b"one")


def test_a_directory_that_cannot_be_written_to_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk: every change of a name is refused, the removal of a temporary file too."""
    store = open_store(str(tmp_path))
    store.put_new("a/b", b"one")
    refuse = OSError(errno.EROFS, "Read-only file system")

    def refused(*_: object, **__: object) -> None:
        raise refuse

    monkeypatch.setattr("perturb.sinks.stores.directory._open_new", refused)
    for name in ("unlink", "mkdir", "rename", "replace"):
        monkeypatch.setattr(Path, name, refused)
    assert store.get("a/b") == b"one"
    assert [entry.key for entry in store.entries()] == ["a/b"]
    for write in (lambda: store.put_new("a/c", b"x"), lambda: store.put("a/b", b"x"), lambda: store.delete("a/b")):
        with pytest.raises(PerturbError, match="read-only"):
            write()
