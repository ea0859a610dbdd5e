"""Tier exports: a growing dataset for each tier. Each sealed day adds files, which never change afterwards."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial

from pydantic import SecretStr

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.contents import read_contents, write_contents
from perturb.sinks.dataset.day_index import DayIndex
from perturb.sinks.dataset.keys import release_key, tier_folder
from perturb.sinks.dataset.writers import formats_of
from perturb.sinks.stores.base import Store
from perturb.tasks.export.operator_state import freeze, pseudonym_key
from perturb.tasks.export.own_days import ADVICE, check_exported, days_to_export
from perturb.tasks.export.plan import DayPlan, plan_day
from perturb.tasks.export.publish_card import publish_cards
from perturb.tasks.export.release import write_release
from perturb.tasks.export.write_day import write_day

log = logging.getLogger(__name__)

MapDays = Callable[[Callable[[date], DayIndex], Sequence[date]], Iterable[DayIndex]]
"""As the builtin `map`: given a function that writes one day, and days, return the index of each day."""


@dataclass(frozen=True)
class DayAdded:
    """What one sealed day adds to an export, all formats together. In a dry run `bytes` counts the images only."""

    day: date
    records: int
    files: int
    bytes: int


@dataclass(frozen=True)
class ExportResult:
    """The state of a tier's export after a run; `added` is what this run added, or would add in a dry run.

    `bytes` is the size of all formats. `path` is the export's folder (its datasets are `path/parquet` and, as the tier
    says, `path/wds` and `path/by_photo`), `waiting` the sealed days that the tier's delay still holds back, `release`
    the key of the file list that was frozen. `left` counts the sealed days that are not exported, as no trusted
    validator signed them, by the reason.
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
    left: Mapping[str, int] = field(default_factory=dict)


def export(
    corpus: Corpus,
    tier: Tier,
    *,
    today: date | None = None,
    key: SecretStr | None = None,
    release: str | None = None,
    dry_run: bool = False,
    map_days: MapDays = map,
    trust: Trust = ANYONE,
) -> ExportResult:
    """Bring a tier's export up to date with the sealed days: plan, write each day that is due, publish the cards.

    Only days that a validator of `trust` sealed, with records of such validators only, are exported. `today` (UTC;
    default: now) decides which days the tier's delay lets through. `key` is the operator's secret (default: one that
    the corpus keeps). `release` freezes the resulting file list under a name. A `dry_run` plans and writes nothing.
    `map_days` is called once with a function that writes one day and the days that are due, ascending, and returns
    their indexes in any order; the default writes one day after the other in this process. A mapper that
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
    contents = read_contents(store, tier.name)
    check_exported(corpus, contents, trust)
    fresh, waiting, left = days_to_export(corpus, contents, tier, today, trust)
    for why, count in left.items():
        log.warning("tier %s: %d sealed days are not exported: %s; %s", tier.name, count, why, ADVICE)
    added: list[DayAdded] = []
    frozen = None
    if dry_run:
        plans = [plan_day(corpus, manifest, tier, key=secret) for manifest in fresh]
        added = [_planned(plan, tier) for plan in plans]
    else:
        freeze(store, tier, secret)
        write = partial(export_day, corpus, tier, key=key, trust=trust)
        written = {index.day: index for index in map_days(write, [manifest.day for manifest in fresh])}
        added = [_added(written[day]) for day in sorted(written)]
        contents = contents.plus(written.values())
        if contents.days:
            write_contents(store, contents)
            made = publish_cards(store, tier, contents)
            frozen = write_release(store, made, release) if release is not None else None
    return ExportResult(
        tier=tier.name,
        version=contents.version,
        records=contents.records,
        bytes=contents.size,
        path=f"{store.url.rstrip('/')}/{tier_folder(tier.name)}".rstrip("/"),
        added=tuple(added),
        waiting=waiting,
        dry_run=dry_run,
        release=frozen,
        left=dict(left),
    )


def export_day(
    corpus: Corpus, tier: Tier, day: date, *, key: SecretStr | None = None, trust: Trust = ANYONE
) -> DayIndex:
    """Write one sealed day's files and return its index; the step that `export` maps over the days that are due.

    Days are independent of each other, so several processes may write several of them at once. `key` is that of
    `export`, which has also checked the tier's definition. Raises CorpusError for a day that is not sealed, or not by
    a validator of `trust`.
    """
    manifest = corpus.manifest(day)
    if manifest is None:
        raise CorpusError(f"{day} is not sealed ({keys.manifest_key(day)} is missing); seal it first")
    if refusal := manifest.refusal(trust):
        raise CorpusError(f"{day} is not exported: {refusal}; {ADVICE}")
    plan = plan_day(corpus, manifest, tier, key=_secret(corpus.store, tier, key))
    index = write_day(corpus, tier, plan)
    log.info("tier %s: %s added %d records", tier.name, day, index.records)
    return index


def _secret(store: Store, tier: Tier, key: SecretStr | None, *, create: bool = True) -> bytes:
    return pseudonym_key(store, key, create=create) if tier.keyed else b""


def _planned(plan: DayPlan, tier: Tier) -> DayAdded:
    formats = formats_of(tier)
    return DayAdded(plan.day, plan.records, len(formats) * len(plan.shards), sum(map(plan.bytes_in, formats)))


def _added(index: DayIndex) -> DayAdded:
    return DayAdded(index.day, index.records, len(index.files), _size(index))


def _size(index: DayIndex) -> int:
    return sum(file.size for file in index.files)
