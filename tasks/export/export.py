"""Tier exports: a growing dataset for each tier. Each sealed day adds files, which never change afterwards."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

from pydantic import SecretStr

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.day_index import DayIndex, export_version, read_day_indexes
from perturb.sinks.dataset.keys import release_key, tier_folder
from perturb.sinks.stores.base import Store
from perturb.tasks.export.operator_state import freeze, pseudonym_key
from perturb.tasks.export.plan import due, plan_day
from perturb.tasks.export.publish_card import publish_cards
from perturb.tasks.export.release import write_release
from perturb.tasks.export.write_day import write_day

log = logging.getLogger(__name__)

MapDays = Callable[[Callable[[date], DayIndex], Sequence[date]], Iterable[DayIndex]]
"""As the builtin `map`: given a function that writes one day, and days, return the index of each day."""


@dataclass(frozen=True)
class DayAdded:
    """What one sealed day adds to an export, both formats together. In a dry run `bytes` counts the images only."""

    day: date
    records: int
    files: int
    bytes: int


@dataclass(frozen=True)
class ExportResult:
    """The state of a tier's export after a run; `added` is what this run added, or would add in a dry run.

    `bytes` is the size of both formats. `path` is the export's folder (its datasets are `path/parquet` and `path/wds`),
    `waiting` the sealed days that the tier's delay still holds back, `release` the key of the file list that was
    frozen.
    """

    tier: str
    version: str
    records: int
    bytes: int
    path: str
    added: tuple[DayAdded, ...]
    waiting: tuple[date, ...]
    dry_run: bool
    release: str | None = None


def export(
    corpus: Corpus,
    tier: Tier,
    *,
    today: date | None = None,
    key: SecretStr | None = None,
    release: str | None = None,
    dry_run: bool = False,
    map_days: MapDays = map,
) -> ExportResult:
    """Bring a tier's export up to date with the sealed days: plan, write each day that is due, publish the cards.

    `today` (UTC; default: now) decides which days the tier's delay lets through. `key` keys the pseudonyms (default:
    a key that the corpus keeps). `release` freezes the resulting file list under a name. A `dry_run` plans and writes
    nothing. `map_days` is called once with a function that writes one day and the days that are due, ascending, and
    returns their indexes in any order; the default writes one day after the other in this process. A mapper that
    distributes days over processes calls `export_day` there. An interrupted run is completed by the next one and ends
    in the same bytes.

    Raises TierError for a tier that was exported under another definition or a release that exists, CorpusError where
    the corpus is inconsistent.
    """
    today = today or datetime.now(UTC).date()
    store = corpus.store
    if release is not None:
        release_key(tier.name, release)
    secret = _secret(store, tier, key, create=not dry_run)
    manifests = corpus.manifests()
    done = {index.day: index for index in read_day_indexes(store, tier.name)}
    _check_sealed(manifests, done.values(), tier)
    missing = [manifest for manifest in manifests if manifest.day not in done]
    fresh = [manifest for manifest in missing if due(manifest, tier, today)]
    added: list[DayAdded] = []
    frozen = None
    if dry_run:
        plans = [plan_day(corpus, manifest, tier, key=secret) for manifest in fresh]
        added = [DayAdded(plan.day, plan.records, 2 * len(plan.shards), 2 * plan.image_bytes) for plan in plans]
    else:
        freeze(store, tier, secret)
        write = partial(export_day, corpus, tier, key=key)
        written = {index.day: index for index in map_days(write, [manifest.day for manifest in fresh])}
        added = [_added(written[day]) for day in sorted(written)]
        done |= written
        if done:
            made = publish_cards(store, tier, [done[day] for day in sorted(done)])
            frozen = write_release(store, made, release) if release is not None else None
    return ExportResult(
        tier=tier.name,
        version=export_version(len(done)),
        records=sum(index.records for index in done.values()),
        bytes=sum(_size(index) for index in done.values()),
        path=f"{store.url.rstrip('/')}/{tier_folder(tier.name)}".rstrip("/"),
        added=tuple(added),
        waiting=tuple(manifest.day for manifest in missing if not due(manifest, tier, today)),
        dry_run=dry_run,
        release=frozen,
    )


def export_day(corpus: Corpus, tier: Tier, day: date, *, key: SecretStr | None = None) -> DayIndex:
    """Write one sealed day's files and return its index; the step that `export` maps over the days that are due.

    Days are independent of each other, so several processes may write several of them at once. `key` is that of
    `export`, which has also checked the tier's definition. Raises CorpusError for a day that is not sealed.
    """
    manifest = corpus.manifest(day)
    if manifest is None:
        raise CorpusError(f"{day} is not sealed ({keys.manifest_key(day)} is missing); seal it first")
    plan = plan_day(corpus, manifest, tier, key=_secret(corpus.store, tier, key))
    index = write_day(corpus, tier, plan)
    log.info("tier %s: %s added %d records", tier.name, day, index.records)
    return index


def _secret(store: Store, tier: Tier, key: SecretStr | None, *, create: bool = True) -> bytes:
    return pseudonym_key(store, key, create=create) if tier.miner == "pseudonym" else b""


def _added(index: DayIndex) -> DayAdded:
    return DayAdded(index.day, index.records, len(index.files), _size(index))


def _size(index: DayIndex) -> int:
    return sum(file.size for file in index.files)


def _check_sealed(manifests: Sequence[Manifest], indexes: Iterable[DayIndex], tier: Tier) -> None:
    roots = {manifest.day: manifest.merkle_root for manifest in manifests}
    for index in indexes:
        if roots.get(index.day) != index.merkle_root:
            raise CorpusError(
                f"tier {tier.name} exported {index.day} from another sealed day than the one in the corpus now; "
                "restore the corpus, or export into an empty store"
            )
