"""Upload one format of an export to a dataset repository on the Hugging Face Hub, in one commit.

Only data files and indexes of days that the repository lacks are sent: they never change, so a later version adds files
and replaces the card. What the export contains is read from one object, so that the requests on the store do not grow
with the age of the export.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perturb.schemas.errors import SettingsError, StoreError, TierError
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import ExportContents, read_contents
from perturb.sinks.dataset.croissant import WITH_CROISSANT
from perturb.sinks.dataset.keys import CARD, CROISSANT, figure_folder, format_folder, index_key, tier_folder
from perturb.sinks.dataset.writers import FORMATS, Format
from perturb.sinks.stores.base import Store
from perturb.tasks.export.own_days import check_exported

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


@dataclass(frozen=True)
class Published:
    """The result of an upload: the paths that were sent, and the number of data files that the repository had."""

    tier: str
    repo: str
    root: str
    version: str
    sent: tuple[str, ...]
    kept: int


def publish(
    store: Store,
    tier: str,
    *,
    repo: str,
    root: str = "parquet",
    private: bool = True,
    api: "HfApi | None" = None,
    trust: Trust = ANYONE,
) -> Published:
    """Bring a Hub repository up to date with the format `root` of the tier's export.

    The repository is created if it does not exist, `private` or public. `api` defaults to one with the credentials of
    the environment. Each day must come from a sealed day that a validator of `trust` signed.

    Raises TierError when the tier has no export in that format, SettingsError for an invalid format or repository
    name, CorpusError for a day that is not of such a validator, StoreError when the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    format = next((name for name in FORMATS if name == root), None)
    if format is None:
        raise SettingsError(f"root {root!r} is not a format of exports; choose one of {', '.join(FORMATS)}")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingsError(f"--repo {repo!r} is not the name of a repository ({error}); write org/name") from error
    contents = read_contents(store, tier)
    if not contents.days:
        raise TierError(f"tier {tier} has no export yet; run perturb export --tier {tier} first")
    check_exported(Corpus(store), contents, trust)
    version = contents.version
    if store.head(format_folder(tier, format) + CARD) is None:
        raise TierError(
            f"tier {tier} is not exported as {format}; its layouts say how it is exported (the tier file), and an "
            "exported tier gets another layout under a new name"
        )
    _check_card(store, tier, format, version)
    listed = _data_files(contents, format)
    client = api or HfApi()
    try:
        client.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        there = set(client.list_repo_files(repo, repo_type="dataset"))
        with tempfile.TemporaryDirectory() as temporary:
            files = {path: key for path, key in (listed | _indexes(contents)).items() if path not in there}
            files |= _card_files(store, contents, format)
            operations = [_operation(store, key, path, Path(temporary)) for path, key in files.items()]
            client.create_commit(
                repo, repo_type="dataset", operations=operations, commit_message=f"Perturb {tier}, version {version}"
            )
    except HfHubHTTPError as error:
        raise StoreError(f"the Hub refused {repo}: {error}; check HF_TOKEN and that it may write there") from error
    return Published(tier, repo, format, version, sent=tuple(files), kept=len(there & set(listed)))


def _check_card(store: Store, tier: str, format: Format, version: str) -> None:
    """Raise TierError where the card does not describe the days that are there: it lists the files by name."""
    key = format_folder(tier, format) + CARD
    text = store.get(key).decode(errors="replace")
    found = re.search(r"config_name: default, version: (1\.[0-9]+\.0)[,}]", text)
    if found is None or found[1] != version:
        stated = found[1] if found else "none that this program writes"
        raise TierError(
            f"{key} is a card of version {stated}, the export is at {version}: an export was interrupted or the card "
            f"is an older program's; run perturb export --tier {tier} first"
        )


def _data_files(contents: ExportContents, format: Format) -> dict[str, str]:
    """Path in the repository -> key, for every data file of a format."""
    folder = tier_folder(contents.tier)
    keys = [file.key for file in contents.files if file.root == format]
    return {key.removeprefix(f"{format}/"): folder + key for key in keys}


def _indexes(contents: ExportContents) -> dict[str, str]:
    """Path in the repository -> key, for the index of every day."""
    keys = (index_key(contents.tier, day) for day in contents.days)
    return {key.removeprefix(tier_folder(contents.tier)): key for key in keys}


def _card_files(store: Store, contents: ExportContents, format: Format) -> dict[str, str]:
    """Path in the repository -> key, for the card, its figures and the Croissant metadata."""
    folder = format_folder(contents.tier, format)
    figures = folder + figure_folder(contents.version)
    keys = [folder + CARD, *(entry.key for entry in store.entries(figures))]
    if format in WITH_CROISSANT:
        keys.append(folder + CROISSANT)
    return {key.removeprefix(folder): key for key in keys}


def _operation(store: Store, key: str, path: str, temporary: Path) -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    entry = store.head(key)
    if entry is None:
        raise StoreError(f"{key} disappeared during the upload; export again")
    local = temporary / path
    local.parent.mkdir(parents=True, exist_ok=True)
    with local.open("wb") as file:
        file.writelines(store.stream(key, entry.size))
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(local))
