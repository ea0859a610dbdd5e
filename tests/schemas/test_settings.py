"""Settings: profiles are defaults, the file beats them, the environment beats the file, mistakes are named."""

from pathlib import Path

import pytest

from perturb.schemas.errors import SettingsError
from perturb.schemas.settings import S3Settings, changed_settings, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    import os

    for name in [name for name in os.environ if name.startswith("PERTURB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_embedded_profile_needs_no_file() -> None:
    settings = load_settings()
    assert (settings.profile, str(settings.source), settings.store) == ("embedded", "sample", "./data")
    assert (settings.bounds.min_levels, settings.bounds.max_levels) == (1, 8)


def test_file_beats_profile_and_environment_beats_file(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clean / "perturb.toml").write_text(
        'profile = "mainnet"\nsource = "folder:photos"\n[classifier]\ndevice = "cpu"\n[bounds]\nepsilon = 0.0157\n'
    )
    monkeypatch.setenv("PERTURB_BOUNDS__EPSILON", "6/255")
    settings = load_settings(store="s3://bucket/prefix")
    assert (settings.source.kind, settings.source.place) == ("folder", "photos")
    assert (settings.classifier.name, settings.classifier.device) == ("tf_efficientnet_b5", "cpu")
    assert str(settings.classifier.weights) == "hub"
    assert settings.judge.name == "Qwen/Qwen2.5-1.5B-Instruct"
    assert settings.subnet.network == "finney"
    assert settings.bounds.max_levels == 6
    assert settings.store == "s3://bucket/prefix"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PERTURB_PROFILE", "testnet", "profile = 'testnet': Input should be 'embedded' or 'mainnet'"),
        ("PERTURB_BOUNDS__EPSILON", "2", "bounds.epsilon = '2': Input should be less than or equal to 1"),
        ("PERTURB_BOUNDS__EPSILON", "0.001", "bounds exclude every answer"),
        ("PERTURB_BOUNDS__EPSILON", "8/0", "bounds.epsilon = '8/0'"),
        ("PERTURB_CHALLENGE__TIMEOUT", "5", "challenge.timeout is not a setting"),
        ("PERTURB_STOER", "s3://bucket", "PERTURB_STOER is not a setting; near it: PERTURB_STORE"),
        ("PERTURB_BOUNDS_EPSILON", "0.01", "PERTURB_BOUNDS_EPSILON is not a setting; near it: PERTURB_BOUNDS"),
        ("PERTURB_SEAL__GRACE", "5", "seal.grace is not a setting; near it: seal.grace_minutes"),
        (
            "PERTURB_CLASSIFIER__WEIGHTS",
            "packge",
            "classifier.weights = 'packge': accepted: 'package', 'hub', 'random:S",
        ),
        ("PERTURB_CLASSIFIER__WEIGHTS", "random:x", "classifier.weights = 'random:x': accepted: 'package'"),
        ("PERTURB_CLASSIFIER__DEVICE", "tpu", "classifier.device = 'tpu': accepted: 'auto', 'cpu'"),
        ("PERTURB_POLICY", "grid", "policy = 'grid': Input should be 'grid-1' or 'public-1'"),
        ("PERTURB_SUBNET__NETWORK", "finey", "subnet.network = 'finey': accepted: 'local', 'finney', 'test'"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_settings()
    assert name.partition("__")[0] in str(caught.value)


@pytest.mark.parametrize("wrong", ["smple", "folder", "folder:", "hub:", "hub", "sample:3", "pexels:cats", "", 3])
def test_a_source_that_is_none_is_refused_with_what_is_accepted(wrong: object, clean: Path) -> None:
    (clean / "perturb.toml").write_text(f"source = {wrong!r}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == (
        f"source = {wrong!r}: accepted: sample, folder:DIR, pexels, or hub:NAME "
        "(set source in perturb.toml or PERTURB_SOURCE)"
    )


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbfstore = "s"\r\n[judge]\r\nname = "none"\r\n',
        b'STORE = "s"\n[Judge]\nName = "none"\n',
        b'store = "s"\njudge.name = "none"\n',
    ],
)
def test_a_file_is_read_as_editors_and_people_write_it(content: bytes, clean: Path) -> None:
    (clean / "perturb.toml").write_bytes(content)
    assert changed_settings(load_settings()) == {"store": "s", "judge.name": "none"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('store = "größe"'.encode("latin-1"), "perturb.toml is not UTF-8"),
        ("store = “s”".encode(), r"perturb.toml is not valid TOML: .*line 1"),
        (b"store = 's'\nSTORE = 't'\n", "perturb.toml has store twice"),
        (b"PERTURB_STORE = 's'\n", "perturb_store is not a setting; near it: store"),
        (
            b"[bounds]\nepsilon = 0.031\n",
            r'0.031 is 7.9[0-9]* levels of 255; .*"7/255" \(0.0275\) and "8/255" \(0.0314\)',
        ),
        (b"[bounds]\nepsilon_min = '6/256'\n", "levels of 255; accepted: whole levels"),
        (b"store = 's3:/bucket'\n", "store = 's3:/bucket': accepted: a directory, or s3://bucket/prefix"),
        (b"store = '~nobody-here/data'\n", "store = '~nobody-here/data': accepted: a path whose ~"),
        (b"profile = ['mainnet']\n", r"profile = \['mainnet'\]: Input should be 'embedded' or 'mainnet'"),
    ],
)
def test_a_file_that_cannot_be_taken_as_meant_is_refused(content: bytes, sentence: str, clean: Path) -> None:
    (clean / "perturb.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=sentence):
        load_settings()


def test_a_folder_in_the_place_of_the_file_is_named(clean: Path) -> None:
    (clean / "perturb.toml").mkdir()
    with pytest.raises(SettingsError, match=r"perturb.toml cannot be read: Is a directory"):
        load_settings()


@pytest.mark.parametrize("value", [" s ", '"s"', "'s'", "s\r"])
def test_what_env_files_leave_around_a_value_is_removed(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERTURB_STORE", value)
    monkeypatch.setenv("PERTURB_PSEUDONYM_KEY", "'quoted' key'")
    monkeypatch.setenv("PERTURB_SUBNET__WALLET_PASSWORD", '"a password"')
    settings = load_settings()
    assert settings.store == "s"
    assert settings.pseudonym_key is not None
    assert settings.pseudonym_key.get_secret_value() == "'quoted' key'"
    assert settings.subnet.wallet_password is not None
    assert settings.subnet.wallet_password.get_secret_value() == '"a password"'


def test_a_home_folder_is_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/operator")
    assert (
        load_settings(store="~/corpus").store_name == load_settings(store="~/corpus").store == "/home/operator/corpus"
    )
    assert load_settings(tiers=Path("~/tiers.toml")).tiers == Path("/home/operator/tiers.toml")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("s3://bucket/prefix//", "s3://bucket/prefix"),
        ("S3://Bucket", "s3://Bucket"),
        ("file:///data/a%20b", "/data/a b"),
        ("file:/data", "/data"),
        ("./$x", "./$x"),
    ],
)
def test_a_store_is_taken_as_people_type_it(typed: str, meant: str) -> None:
    assert load_settings(store=typed).store == meant


@pytest.mark.parametrize(
    "typed", ["s3:bucket", "s3://", "s3:///x", "file://relative", "https://s3.example.com/b", "$HOME/x", "gs://b", " "]
)
def test_a_store_that_cannot_be_meant_is_refused(typed: str) -> None:
    with pytest.raises(SettingsError, match=r"store = .*accepted: a "):
        load_settings(store=typed)


def test_an_endpoint_has_a_scheme_and_no_slash_at_its_end() -> None:
    assert S3Settings(endpoint_url="HTTPS://s3.example.com/").endpoint_url == "https://s3.example.com"
    for typed in ("localhost:9000", "s3.example.com", "https://", "s3://bucket"):
        with pytest.raises(ValueError, match="begins with https://"):
            S3Settings(endpoint_url=typed)


def test_a_broken_file_is_named(clean: Path) -> None:
    (clean / "perturb.toml").write_text("store = data\n")
    with pytest.raises(SettingsError, match=r"perturb\.toml"):
        load_settings()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERTURB_PEXELS__API_KEY", "hunter2hunter2")
    assert "hunter2" not in repr(load_settings()) + load_settings().model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PERTURB_PEXELS__PROMPTS", "cat,dog"),
        ("PERTURB_BOUNDS", "foo"),
        ("PERTURB_S3", "{"),
        ("PERTURB_PEXELS", "abcd"),
    ],
)
def test_a_list_or_section_that_is_no_json_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name} is not valid JSON; write a list or a section as JSON") as caught:
        load_settings()
    assert value not in str(caught.value)


def test_a_secret_of_the_wrong_type_is_not_repeated(clean: Path) -> None:
    (clean / "perturb.toml").write_text("pseudonym_key = 8812345\nsubnet = 8812345\n[pexels]\napi_key = 8812345\n")
    with pytest.raises(SettingsError, match=r"pexels\.api_key") as caught:
        load_settings()
    assert "8812345" not in str(caught.value)


def test_a_value_that_is_no_secret_is_repeated_whatever_its_name(clean: Path) -> None:
    (clean / "perturb.toml").write_text('pseudonym_key = "x"\n[subnet]\nwallet_hotkey = 5\n')
    with pytest.raises(SettingsError, match=r"subnet\.wallet_hotkey = 5: .*PERTURB_SUBNET__WALLET_HOTKEY"):
        load_settings()


def test_the_settings_that_differ_are_told_apart_secrets_included(monkeypatch: pytest.MonkeyPatch) -> None:
    assert changed_settings(load_settings()) == {}
    monkeypatch.setenv("PERTURB_SUBNET__HOTKEY_URI", "//Alice")
    monkeypatch.setenv("PERTURB_PROFILE", "mainnet")
    changed = changed_settings(load_settings(store="data"))
    assert set(changed) == {
        *("profile", "store", "source", "classifier.name", "classifier.weights", "judge.name"),
        *("subnet.network", "subnet.hotkey_uri"),
    }
    assert "Alice" not in str(changed)
