"""Uploading one root of an export to a dataset repository on the Hugging Face Hub, in one commit.

Only what is missing there is sent: day files never change, so a later version adds files and replaces the card.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturb.schemas.errors import SettingsError, StoreError, TierError
from perturb.sinks.stores.base import Store
from perturb.tasks.export.operator_state import tier_folder
from perturb.tasks.export.publish_card import read_digests
from perturb.tasks.export.write_day import ROOTS


@dataclass(frozen=True)
class Published:
    """What a commit to the Hub brought: files sent, and those that were there already."""

    tier: str
    repo: str
    root: str
    version: str
    sent: tuple[str, ...]
    kept: int


def publish(
    store: Store, tier: str, *, repo: str, root: str = "parquet", private: bool = True, api: Any = None
) -> Published:
    """Bring a Hub repository up to the tier's export; `api` is a `huggingface_hub.HfApi` (default: one with the
    credentials of the environment).

    Raises TierError where nothing is exported, SettingsError for a name that can't be a repository's, StoreError where
    the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if root not in ROOTS:
        raise SettingsError(f"root {root!r} is none; choose one of {', '.join(ROOTS)}")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingsError(f"--repo {repo!r} is no repository's name ({error}); write org/name") from error
    digests = read_digests(store, tier)
    if not digests:
        raise TierError(f"tier {tier} has no export yet; run perturb export --tier {tier} first")
    version = f"1.{len(digests)}.0"
    client = api or HfApi()
    try:
        client.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        there = set(client.list_repo_files(repo, repo_type="dataset"))
        with tempfile.TemporaryDirectory() as temporary:
            files = _to_send(store, tier, root, there)
            operations = [_operation(store, key, path, Path(temporary)) for key, path in files.items()]
            client.create_commit(
                repo, repo_type="dataset", operations=operations, commit_message=f"Perturb {tier}, version {version}"
            )
    except HfHubHTTPError as error:
        raise StoreError(f"the Hub refused {repo}: {error}; check HF_TOKEN and that it may write there") from error
    return Published(tier, repo, root, version, sent=tuple(files.values()), kept=len(there & set(_all(digests, root))))


def _all(digests: Any, root: str) -> list[str]:
    return [file.key.removeprefix(f"{root}/") for digest in digests for file in digest.files if file.root == root]


def _to_send(store: Store, tier: str, root: str, there: set[str]) -> dict[str, str]:
    """Key -> path in the repository: the root as it stands and the days' digests, less data files already there."""
    folder = tier_folder(tier)
    found = {entry.key: entry.key.removeprefix(f"{folder}{root}/") for entry in store.entries(f"{folder}{root}/")}
    found |= {entry.key: entry.key.removeprefix(folder) for entry in store.entries(f"{folder}.perturb/")}
    return {key: path for key, path in found.items() if not (path.startswith("data/") and path in there)}


def _operation(store: Store, key: str, path: str, temporary: Path) -> Any:
    from huggingface_hub import CommitOperationAdd

    entry = store.head(key)
    if entry is None:
        raise StoreError(f"{key} vanished while it was uploaded; export again")
    local = temporary / path
    local.parent.mkdir(parents=True, exist_ok=True)
    with local.open("wb") as file:
        file.writelines(store.stream(key, entry.size))
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(local))
