"""An export day by day, so that days can be written side by side, on one machine or several.

`export` afterwards finds every day done and publishes the card: the bytes are those of an export in one go.
"""

from collections.abc import Sequence
from datetime import date

from pydantic import SecretStr

from perturb.schemas.errors import CorpusError
from perturb.schemas.tier import Tier
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.tasks.export.export import DayAdded
from perturb.tasks.export.operator_state import freeze, pseudonym_key
from perturb.tasks.export.plan import due, plan_day
from perturb.tasks.export.write_day import digest_key, write_day


def days_to_export(corpus: Corpus, tier: Tier, *, today: date, key: SecretStr | None = None) -> list[date]:
    """Sealed days that are due and not exported, ascending; the tier's definition is frozen before anybody writes.

    Raises TierError for a tier that was exported under another definition.
    """
    freeze(corpus.store, tier, _secret(corpus, tier, key))
    return [
        manifest.day
        for manifest in corpus.manifests()
        if due(manifest, tier, today) and corpus.store.head(digest_key(tier.name, manifest.day.isoformat())) is None
    ]


def export_day(corpus: Corpus, tier: Tier, day: date, *, key: SecretStr | None = None) -> DayAdded:
    """Write one day's files and its digest. Raises CorpusError for a day that is not sealed."""
    manifest = corpus.manifest(day)
    if manifest is None:
        raise CorpusError(f"{day} is not sealed ({keys.manifest_key(day)} is missing); seal it first")
    digest = write_day(corpus, tier, plan_day(corpus, manifest, tier, key=_secret(corpus, tier, key)))
    return DayAdded(day, digest.records, len(digest.files), sum(file.size for file in digest.files))


def in_order(added: Sequence[DayAdded]) -> tuple[DayAdded, ...]:
    """By day, as one export in one go reports them."""
    return tuple(sorted(added, key=lambda day: day.day))


def _secret(corpus: Corpus, tier: Tier, key: SecretStr | None) -> bytes:
    return pseudonym_key(corpus.store, key) if tier.miner == "pseudonym" else b""
