"""Tier exports: one growing dataset for each tier, each sealed day adding files that never change again."""

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
from perturb.sinks.dataset.day_index import DayDigest
from perturb.sinks.stores.base import Store
from perturb.tasks.export.operator_state import freeze, pseudonym_key, release_key, tier_folder
from perturb.tasks.export.plan import due, plan_day
from perturb.tasks.export.publish_card import publish_cards, read_digests, write_release
from perturb.tasks.export.write_day import Progress, write_day

log = logging.getLogger(__name__)

MapDays = Callable[[Callable[[date], DayDigest], Sequence[date]], Iterable[DayDigest]]
"""As the builtin `map`: given a function that writes one day, and days, return the index of each day."""


@dataclass(frozen=True)
class DayAdded:
    """What one sealed day adds to an export. In a dry run `bytes` are those of the images alone."""

    day: date
    records: int
    files: int
    bytes: int


@dataclass(frozen=True)
class ExportResult:
    """The state of a tier's export after a run; `added` is what this run added, or would add in a dry run.

    `path` is where the export lies (its roots are `path/parquet` and `path/wds`), `waiting` the sealed days that the
    tier's delay still holds back, `release` the key of the file list that was frozen.
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
    progress: Progress = lambda _: None,
    map_days: MapDays = map,
) -> ExportResult:
    """Bring a tier's export up to date with the sealed days: plan, write each day that is due, publish the cards.

    `today` (UTC; default: now) decides which days the tier's delay lets through. `key` keys the pseudonyms (default:
    a key that the corpus keeps). `release` freezes the resulting file list under a name. A `dry_run` plans and writes
    nothing. `progress` is called with the number of image bytes after each group of rows that this process writes.
    `map_days` is called once with a function that writes one day and the days that are due, ascending, and returns
    their indexes in any order; the default writes one day after the other in this process. A mapper that spreads days
    over processes calls `export_day` there. An interrupted run is completed by the next one and ends in the same bytes.

    Raises TierError for a tier that was exported under another definition or a release that exists, CorpusError where
    the corpus is inconsistent.
    """
    today = today or datetime.now(UTC).date()
    store = corpus.store
    if release is not None:
        release_key(tier.name, release)
    secret = _secret(store, tier, key, draw=not dry_run)
    manifests = corpus.manifests()
    done = {digest.day: digest for digest in read_digests(store, tier.name)}
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
        write = partial(export_day, corpus, tier, key=key, progress=progress)
        written = {digest.day: digest for digest in map_days(write, [manifest.day for manifest in fresh])}
        added = [_added(written[day]) for day in sorted(written)]
        done |= written
        if done:
            made = publish_cards(store, tier, [done[day] for day in sorted(done)])
            frozen = write_release(store, made, release) if release is not None else None
    return ExportResult(
        tier=tier.name,
        version=f"1.{len(done)}.0",
        records=sum(digest.records for digest in done.values()),
        bytes=sum(_size(digest) for digest in done.values()),
        path=f"{store.url.rstrip('/')}/{tier_folder(tier.name)}".rstrip("/"),
        added=tuple(added),
        waiting=tuple(manifest.day for manifest in missing if not due(manifest, tier, today)),
        dry_run=dry_run,
        release=frozen,
    )


def export_day(
    corpus: Corpus, tier: Tier, day: date, *, key: SecretStr | None = None, progress: Progress = lambda _: None
) -> DayDigest:
    """Write one sealed day's files and return its index; the step that `export` maps over the days that are due.

    Days are independent of each other, so several processes may write several of them at once. `key` and `progress`
    are those of `export`, which has also checked the tier's definition. Raises CorpusError for a day that is not
    sealed.
    """
    manifest = corpus.manifest(day)
    if manifest is None:
        raise CorpusError(f"{day} is not sealed ({keys.manifest_key(day)} is missing); seal it first")
    plan = plan_day(corpus, manifest, tier, key=_secret(corpus.store, tier, key))
    digest = write_day(corpus, tier, plan, progress=progress)
    log.info("tier %s: %s added %d records", tier.name, day, digest.records)
    return digest


def _secret(store: Store, tier: Tier, key: SecretStr | None, *, draw: bool = True) -> bytes:
    return pseudonym_key(store, key, draw=draw) if tier.miner == "pseudonym" else b""


def _added(digest: DayDigest) -> DayAdded:
    return DayAdded(digest.day, digest.records, len(digest.files), _size(digest))


def _size(digest: DayDigest) -> int:
    return sum(file.size for file in digest.files)


def _check_sealed(manifests: Sequence[Manifest], digests: Iterable[DayDigest], tier: Tier) -> None:
    roots = {manifest.day: manifest.merkle_root for manifest in manifests}
    for digest in digests:
        if roots.get(digest.day) != digest.merkle_root:
            raise CorpusError(
                f"tier {tier.name} has exported {digest.day} from another sealed day than the corpus holds now; "
                "restore the corpus, or export into a fresh store"
            )
