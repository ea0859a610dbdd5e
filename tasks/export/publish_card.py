"""Making a version of an export visible: pictures and Croissant first, then each root's card, which is the switch."""

import json
import logging
from collections.abc import Sequence

from perturb.schemas.errors import CorpusError, TierError
from perturb.schemas.tier import Tier
from perturb.sinks.dataset.card import SPLITS, Contents, contents, make_card
from perturb.sinks.dataset.croissant import make_croissant
from perturb.sinks.dataset.day_index import DayDigest, parse_digest
from perturb.sinks.dataset.plots import draw_plots, plot_names
from perturb.sinks.formats.merkle import canonical_json
from perturb.sinks.stores.base import ObjectMissing, Store
from perturb.tasks.export.operator_state import release_key, tier_folder
from perturb.tasks.export.write_day import ROOTS

log = logging.getLogger(__name__)
RELEASE_FORMAT = 1


def read_digests(store: Store, tier: str) -> list[DayDigest]:
    """What the days of an export added, in the order of days."""
    entries = store.entries(f"{tier_folder(tier)}.perturb/")
    return [parse_digest(store.get(entry.key), entry.key) for entry in entries]


def publish_cards(store: Store, tier: Tier, digests: Sequence[DayDigest]) -> Contents:
    """Bring both cards up to the given days; where they say so already, nothing is done.

    Pictures and Croissant of a version have names of their own, so that the card before still finds its own; those of
    older versions are removed once nothing points there.
    """
    made = contents(tier, digests)
    meta = f".meta/{made.version}/"
    figures = [meta + name for name in plot_names(made.statistics)]
    cards = {f"{tier_folder(tier.name)}{root}/": make_card(made, root, figures=figures) for root in ROOTS}
    if all(_stored(store, folder + "README.md") == card for folder, card in cards.items()):
        return made
    plots = draw_plots(made.statistics)
    croissant = {"croissant.json": make_croissant(made)}
    for root, (folder, card) in zip(ROOTS, cards.items(), strict=True):
        for name, data in (plots | croissant if root == "parquet" else plots).items():
            store.put(folder + meta + name, data)
        store.put(folder + "README.md", card)
        _remove_older(store, folder + ".meta/", made)
    return made


def _stored(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key)
    except ObjectMissing:
        return None


def _remove_older(store: Store, folder: str, made: Contents) -> None:
    kept = {made.version, f"1.{len(made.days) - 1}.0"}
    for entry in list(store.entries(folder)):
        if entry.key.removeprefix(folder).partition("/")[0] not in kept:
            store.delete(entry.key)


def write_release(store: Store, made: Contents, name: str) -> str:
    """Freeze the file list of a version; returns the key. Raises TierError where the release exists."""
    key = release_key(made.tier.name, name)
    body = {
        "format": RELEASE_FORMAT,
        "tier": made.tier.name,
        "release": name,
        "version": made.version,
        "records": made.records,
        "days": [day.isoformat() for day in made.days],
        "license_name": made.tier.license_name,
        "data_files": {
            root: {split: [file.key for file in made.of(root, split)] for split in SPLITS if made.of(root, split)}
            for root in ROOTS
        },
        "files": [file.model_dump() for file in made.files],
    }
    if store.head(key) is not None or not store.put_new(key, canonical_json(body) + b"\n"):
        raise TierError(f"release {name} of tier {made.tier.name} exists and stays as it is; choose another name")
    return key


def read_release(store: Store, tier: str, name: str) -> dict[str, object]:
    """A release's file list. Raises TierError that lists the releases there are."""
    key = release_key(tier, name)
    if store.head(key) is None:
        there = [
            entry.key.rpartition("/")[2].removesuffix(".json") for entry in store.entries(key.rpartition("/")[0] + "/")
        ]
        raise TierError(f"tier {tier} has no release {name!r}; there are {', '.join(there) or 'none'}")
    found = json.loads(store.get(key))
    if not isinstance(found, dict) or found.get("format") != RELEASE_FORMAT:
        raise CorpusError(f"{key} is no release that this program reads; restore it from a copy")
    return found
