"""What tiers mean for a corpus: proof that they nest, and a look at what one of them would sell."""

from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pydantic import SecretStr

from perturb.schemas.outcome import Outcome
from perturb.schemas.pair import Pair
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.features import metadata_schema
from perturb.tasks.export.operator_state import pseudonym_key
from perturb.tasks.export.plan import image_bytes
from perturb.tasks.export.write_day import read_pairs
from perturb.tasks.tiers.grant import Selection, needed_columns, select
from perturb.tasks.tiers.tier_file import Tiers, line_in, load_tiers


@dataclass(frozen=True)
class TierState:
    """One tier on the corpus: how many of its accepted records it selects (delay apart), and what it lets out."""

    name: str
    records: int
    image_bytes: int
    columns: tuple[str, ...]
    miner: str
    within: str | None


@dataclass(frozen=True)
class TierCheck:
    """Every tier on every sealed day. `faults` are sentences that name the line of the tier file; none is good."""

    accepted: int
    days: tuple[date, ...]
    tiers: tuple[TierState, ...]
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every tier is what it says."""
        return not self.faults


@dataclass(frozen=True)
class Preview:
    """A look at a tier: `rows` as a subscriber would get them, `pairs` with their images for a contact sheet."""

    tier: str
    records: int
    image_bytes: int
    days: dict[date, int]
    splits: dict[str, int]
    views: dict[str, int]
    rows: tuple[dict[str, Any], ...]
    pairs: tuple[Pair, ...]


def check_tiers(corpus: Corpus, path: Path) -> TierCheck:
    """Load the tier file and hold it against the sealed days: each tier's records are among those of the tier around
    it, and no column leaves that isn't granted. Raises TierError where the file itself is wrong.
    """
    tiers = load_tiers(path)
    totals: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    accepted, faults = 0, []
    manifests = corpus.manifests()
    for manifest in manifests:
        table = _accepted(corpus, manifest, tiers)
        accepted += table.num_rows
        chosen = {name: select(table, tier, key=b"check") for name, tier in tiers.items()}
        for name, selection in chosen.items():
            totals[name] += selection.public.num_rows
            sizes[name] += sum(image_bytes(selection))
        faults += _faults(tiers, chosen, manifest.day, path)
    states = tuple(
        TierState(name, totals[name], sizes[name], tier.granted, tier.miner, tier.within)
        for name, tier in tiers.items()
    )
    return TierCheck(accepted, tuple(manifest.day for manifest in manifests), states, tuple(faults))


def preview(corpus: Corpus, tier: Tier, *, rows: int = 5, key: SecretStr | None = None) -> Preview:
    """What the sealed days hold for a tier, its delay apart, and its first `rows` rows with their images."""
    secret = pseudonym_key(corpus.store, key, draw=False) if tier.miner == "pseudonym" else b""
    days: dict[date, int] = {}
    splits: Counter[str] = Counter()
    views: Counter[str] = Counter()
    size = 0
    shown: list[dict[str, Any]] = []
    pairs: list[Pair] = []
    for manifest in corpus.manifests():
        selection = select(_accepted(corpus, manifest, {tier.name: tier}), tier, key=secret)
        days[manifest.day] = selection.public.num_rows
        splits.update(selection.split)
        views.update({view: pc.sum(selection.public[view]).as_py() or 0 for view in tier.views})
        size += sum(image_bytes(selection))
        if len(shown) < rows and selection.public.num_rows:
            found, images = _look(corpus, selection, rows - len(shown))
            shown += found
            pairs += images
    return Preview(
        tier.name, sum(days.values()), size, days, dict(sorted(splits.items())), dict(views), tuple(shown), tuple(pairs)
    )


def _accepted(corpus: Corpus, manifest: Manifest, tiers: Tiers) -> pa.Table:
    columns = sorted({name for tier in tiers.values() for name in needed_columns(tier)})
    return corpus.metadata(manifest).to_table(columns=columns, filter=ds.field("outcome") == str(Outcome.ACCEPTED))


def _faults(tiers: Tiers, chosen: dict[str, Selection], day: date, path: Path) -> list[str]:
    faults = []
    for name, tier in tiers.items():
        rows = chosen[name].public
        if rows.schema != metadata_schema(tier):
            faults.append(f"tier {name} would let out other columns than it grants on {day}; do not export it")
        if tier.within is None:
            continue
        more = set(rows["sample_id"].to_pylist()) - set(chosen[tier.within].public["sample_id"].to_pylist())
        if more:
            faults.append(
                f"{line_in(path, name, 'where')}: {len(more)} records of {day} are in {name} and not in {tier.within} "
                f"(sample id {min(more)}, for one); let its predicate imply that of {tier.within}"
            )
    return faults


def _look(corpus: Corpus, selection: Selection, number: int) -> tuple[list[dict[str, Any]], list[Pair]]:
    rows = selection.public.slice(0, number).to_pylist()
    originals, perturbed = read_pairs(corpus, selection.pointers.slice(0, number))
    return rows, [Pair(*pair) for pair in zip(originals, perturbed, rows, strict=True)]
