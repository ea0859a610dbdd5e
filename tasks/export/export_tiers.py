"""The step after a seal: the configured tiers' datasets catch up with the sealed days."""

from collections.abc import Sequence
from datetime import date

from perturb.schemas.settings import Settings
from perturb.sinks.corpus.corpus import Corpus
from perturb.subnet.trust import load_trust
from perturb.tasks.export.export import ExportResult, MapDays, export
from perturb.tasks.tiers.tier_file import get_tier, load_tiers


def export_tiers(
    settings: Settings,
    tiers: Sequence[str] = (),
    *,
    today: date | None = None,
    release: str | None = None,
    dry_run: bool = False,
    map_days: MapDays = map,
) -> list[ExportResult]:
    """Export `tiers` (default: all of the tier file), one after the other, and return a result for each.

    Only days that this validator or a trusted one sealed are exported. `today`, `release`, `dry_run` and `map_days` are
    those of `export`. Raises TierError for a tier that the tier file lacks, StoreError for a store that is not safe to
    write to, and what `export` raises.
    """
    known = load_tiers(settings.tiers)
    chosen = [get_tier(known, name) for name in tiers or known]
    corpus = Corpus.open(settings) if dry_run else Corpus.open_for_writing(settings)
    trust = load_trust(settings.subnet)
    return [
        export(
            corpus,
            tier,
            today=today,
            key=settings.pseudonym_key,
            release=release,
            dry_run=dry_run,
            map_days=map_days,
            trust=trust,
        )
        for tier in chosen
    ]
