"""Tier exports: one growing dataset for each tier, each sealed day adding files that never change again."""

import logging
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pydantic import SecretStr

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.day_index import DayDigest
from perturb.tasks.export.operator_state import freeze, pseudonym_key, release_key, tier_folder
from perturb.tasks.export.plan import due, plan_day
from perturb.tasks.export.publish_card import publish_cards, read_digests, write_release
from perturb.tasks.export.write_day import Progress, write_day

log = logging.getLogger(__name__)


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
) -> ExportResult:
    """Bring a tier's export up to date with the sealed days.

    `today` (UTC; default: now) decides which days the tier's delay lets through, `key` keys pseudonyms (default: one
    that the corpus keeps), `release` freezes the resulting file list under a name, `progress` is told image bytes as
    they are written. An interrupted run is taken up by the next one and ends in the same bytes.

    Raises TierError for a tier that was exported under another definition or a release that exists, CorpusError where
    the corpus contradicts itself.
    """
    today = today or datetime.now(UTC).date()
    store = corpus.store
    if release is not None:
        release_key(tier.name, release)
    secret = pseudonym_key(store, key, draw=not dry_run) if tier.miner == "pseudonym" else b""
    done = {digest.day: digest for digest in read_digests(store, tier.name)}
    manifests = corpus.manifests()
    fresh = [manifest for manifest in manifests if due(manifest, tier, today) and manifest.day not in done]
    waiting = tuple(m.day for m in manifests if not due(m, tier, today) and m.day not in done)
    if not dry_run:
        freeze(store, tier, secret)
    added = []
    for manifest in fresh:
        plan = plan_day(corpus, manifest, tier, key=secret)
        if dry_run:
            added.append(DayAdded(plan.day, plan.records, 2 * len(plan.shards), 2 * plan.image_bytes))
            continue
        digest = write_day(corpus, tier, plan, progress=progress)
        done[plan.day] = digest
        added.append(DayAdded(plan.day, digest.records, len(digest.files), _size([digest])))
        log.info("tier %s: %s added %d records", tier.name, plan.day, digest.records)
    digests = [done[day] for day in sorted(done)]
    _check_sealed(manifests, digests, tier)
    frozen = None
    version = f"1.{len(digests)}.0"
    if not dry_run and digests:
        made = publish_cards(store, tier, digests)
        frozen = write_release(store, made, release) if release is not None else None
    return ExportResult(
        tier=tier.name,
        version=version,
        records=sum(digest.records for digest in digests),
        bytes=_size(digests),
        path=f"{store.url.rstrip('/')}/{tier_folder(tier.name)}".rstrip("/"),
        added=tuple(added),
        waiting=waiting,
        dry_run=dry_run,
        release=frozen,
    )


def _size(digests: list[DayDigest]) -> int:
    return sum(file.size for digest in digests for file in digest.files)


def _check_sealed(manifests: list[Manifest], digests: list[DayDigest], tier: Tier) -> None:
    roots = {manifest.day: manifest.merkle_root for manifest in manifests}
    for digest in digests:
        if roots.get(digest.day) != digest.merkle_root:
            raise CorpusError(
                f"tier {tier.name} has exported {digest.day} from another sealed day than the corpus holds now; "
                "restore the corpus, or export into a fresh store"
            )
