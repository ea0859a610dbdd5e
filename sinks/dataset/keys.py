"""Keys of exports, relative to the corpus' store. `docs/subscribing.md` describes the same layout for readers.

Listings go by these names. Other objects beside ours (a file manager's, a synchroniser's) are ignored.
"""

import re
from datetime import date, timedelta

from perturb.schemas.errors import TierError
from perturb.sinks.stores.base import Store

EXPORTS = "exports/"
CARD = "README.md"
CROISSANT = "croissant.json"
_META = ".meta/"
_RELEASE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def tier_folder(tier: str) -> str:
    """`exports/{tier}/`."""
    return f"{EXPORTS}{tier}/"


def format_folder(tier: str, format: str) -> str:
    """`exports/{tier}/{format}/`: a dataset of its own, with a card; `format` is `parquet`, `wds` or `by_photo`."""
    return f"{tier_folder(tier)}{format}/"


def figure_folder(version: str) -> str:
    """Return the folder of a version's figures, below `format_folder`."""
    return f"{_META}{version}/"


def figure_versions(store: Store, folder: str) -> list[str]:
    """Return the versions that have a `figure_folder` below `folder`, which is a `format_folder`."""
    names = store.folders(folder + _META)
    return [name for name in names if re.fullmatch(r"1\.[0-9]+\.0", name)]


def index_key(tier: str, day: date) -> str:
    """Return the key of the object whose presence says that a day is exported."""
    return f"{_index_folder(tier)}{day.isoformat()}.json"


def exported_days(store: Store, tier: str, *, since: date | None = None) -> list[date]:
    """Return the days whose index is in the store, ascending; with `since`, from that day on."""
    folder = _index_folder(tier)
    after = "" if since is None else index_key(tier, since - timedelta(days=1))
    named = (_index_day(entry.key.removeprefix(folder)) for entry in store.entries(folder, after=after))
    return sorted(day for day in named if day is not None)


def contents_key(tier: str) -> str:
    """Return the key of the object that adds up the indexes of the exported days."""
    return f"{_index_folder(tier)}contents.json"


def release_key(tier: str, release: str) -> str:
    """Return the key of a release's frozen file list. Raises TierError for a name that cannot be used."""
    if not re.fullmatch(_RELEASE, release):
        raise TierError(f"release name {release!r}: use letters, digits, '.', '_' and '-', at most 64, such as 2026-q1")
    return f"{_release_folder(tier)}{release}.json"


def releases(store: Store, tier: str) -> list[str]:
    """Return the names of the releases of a tier that are in the store."""
    folder = _release_folder(tier)
    found = (re.fullmatch(rf"({_RELEASE})\.json", entry.key.removeprefix(folder)) for entry in store.entries(folder))
    return [match[1] for match in found if match]


def _index_folder(tier: str) -> str:
    return f"{tier_folder(tier)}.perturb/"


def _release_folder(tier: str) -> str:
    return f"{tier_folder(tier)}releases/"


def _index_day(name: str) -> date | None:
    """The day of an index named `2026-01-31.json`; None for any other name."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}\.json", name, re.ASCII):
        return None
    try:
        return date.fromisoformat(name.removesuffix(".json"))
    except ValueError:
        return None
