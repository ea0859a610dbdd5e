"""Releases: the file list of a version of an export, frozen under a name."""

from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError, TierError
from perturb.schemas.tier import SPLITS
from perturb.sinks.dataset.card import Contents
from perturb.sinks.dataset.day_index import ExportFile
from perturb.sinks.dataset.keys import release_key, releases
from perturb.sinks.dataset.writers import formats_of
from perturb.sinks.stores.base import Store


class Release(BaseModel):
    """A frozen file list. `data_files` lists the keys of `files` by format and split, as `datasets` takes them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    tier: str
    release: str
    version: str
    records: int
    days: tuple[date, ...]
    license_name: str
    data_files: dict[str, dict[str, list[str]]]
    files: tuple[ExportFile, ...]


def write_release(store: Store, contents: Contents, name: str) -> str:
    """Freeze the file list of a version and return its key. Raises TierError when the release exists."""
    key = release_key(contents.tier.name, name)
    release = Release(
        tier=contents.tier.name,
        release=name,
        version=contents.version,
        records=contents.records,
        days=contents.days,
        license_name=contents.tier.license_name,
        data_files={
            format: {split: [file.key for file in files] for split in SPLITS if (files := contents.of(format, split))}
            for format in formats_of(contents.tier)
        },
        files=contents.files,
    )
    body = canonical_json(release.model_dump(mode="json")) + b"\n"
    if store.head(key) is not None or not store.put_new(key, body):
        raise TierError(f"release {name} of tier {contents.tier.name} exists and cannot change; choose another name")
    return key


def read_release(store: Store, tier: str, name: str) -> Release:
    """Return a release. Raises TierError, which lists the tier's releases, when it does not exist."""
    key = release_key(tier, name)
    if store.head(key) is None:
        names = ", ".join(releases(store, tier)) or "none yet"
        raise TierError(f"tier {tier} has no release {name!r}; its releases: {names}")
    try:
        return Release.model_validate_json(store.get(key))
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise CorpusError(f"{key} is not a release that this program reads ({message}); restore it") from error
