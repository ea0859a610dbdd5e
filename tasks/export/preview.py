"""Tiers on a corpus: a check that they nest, and a preview of the rows that one of them would export."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
from pydantic import SecretStr

from perturb.schemas.pair import Pair
from perturb.schemas.record import Row
from perturb.schemas.tier import IDENTIFYING, Tier, exposures
from perturb.schemas.trust import ANYONE, Trust
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.features import metadata_schema
from perturb.tasks.export.operator_state import pseudonym_key
from perturb.tasks.export.own_days import own_manifests
from perturb.tasks.export.plan import accepted_rows, image_bytes
from perturb.tasks.export.write_day import read_pairs
from perturb.tasks.tiers.grant import GrantedRows, grant
from perturb.tasks.tiers.predicate import check_predicate
from perturb.tasks.tiers.tier_file import Tiers, line_in, load_tiers


@dataclass(frozen=True)
class TierState:
    """One tier on the corpus: the accepted records that it selects (ignoring its delay) and the columns it grants."""

    name: str
    records: int
    image_bytes: int
    columns: tuple[str, ...]
    miner: str
    within: str | None


@dataclass(frozen=True)
class TierCheck:
    """The check of every tier on every sealed day of a trusted validator; an empty `faults` means that it passed.

    `accepted` is the number of accepted records in the corpus. Each fault is a sentence; where a line of the tier file
    is to be changed, it names the line. `notes` name what a tier without hotkeys shows by which miners can be told
    apart or identified; they are the operator's choice and no faults. `left` counts the sealed days that no trusted
    validator signed, by the reason.
    """

    accepted: int
    days: tuple[date, ...]
    tiers: tuple[TierState, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    left: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether the check passed."""
        return not self.faults


@dataclass(frozen=True)
class Preview:
    """The rows of a tier in the sealed days: how many by day, split and view, and the first ones.

    `rows` is the metadata of the first rows as a subscriber gets it, `pairs` the same rows with their images. `left` is
    that of `TierCheck`.
    """

    tier: str
    records: int
    image_bytes: int
    days: dict[date, int]
    splits: dict[str, int]
    views: dict[str, int]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    left: Mapping[str, int]


def check_tiers(corpus: Corpus, path: Path, *, key: SecretStr | None = None, trust: Trust = ANYONE) -> TierCheck:
    """Load the tier file and check it on the sealed days that a validator of `trust` signed.

    Each tier's records must be among those of the tier that it is within, and its rows must have the granted columns
    only. `key` is that of `export`; it decides which records a fraction takes. Raises TierError when the file itself is
    invalid.
    """
    tiers = load_tiers(path)
    secret = pseudonym_key(corpus.store, key, create=False)
    totals: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    accepted, faults = 0, []
    manifests, left = own_manifests(corpus, trust)
    for manifest in manifests:
        table = accepted_rows(corpus, manifest, tiers.values())
        accepted += table.num_rows
        granted = {name: grant(table, tier, key=secret) for name, tier in tiers.items()}
        for name, rows in granted.items():
            totals[name] += rows.public.num_rows
            sizes[name] += sum(image_bytes(rows))
        faults += _faults(tiers, granted, manifest.day, path)
    states = tuple(
        TierState(name, totals[name], sizes[name], tier.granted, tier.miner, tier.within)
        for name, tier in tiers.items()
    )
    days = tuple(manifest.day for manifest in manifests)
    return TierCheck(accepted, days, states, tuple(faults), tuple(_notes(tiers, path)), left)


def preview(
    corpus: Corpus, tier: Tier, *, rows: int = 5, key: SecretStr | None = None, trust: Trust = ANYONE
) -> Preview:
    """Count what a tier would hold, ignoring its delay, and read its first `rows` rows with images.

    Only sealed days that a validator of `trust` signed are looked at.
    """
    secret = pseudonym_key(corpus.store, key, create=False)
    days: dict[date, int] = {}
    splits: Counter[str] = Counter()
    views: Counter[str] = Counter()
    size = 0
    pairs: list[Pair] = []
    manifests, left = own_manifests(corpus, trust)
    for manifest in manifests:
        granted = grant(accepted_rows(corpus, manifest, [tier]), tier, key=secret)
        days[manifest.day] = granted.public.num_rows
        splits.update(granted.split)
        views.update({view: pc.sum(granted.public[view]).as_py() or 0 for view in tier.views})
        size += sum(image_bytes(granted))
        if len(pairs) < rows and granted.public.num_rows:
            pairs += _first_pairs(corpus, granted, rows - len(pairs))
    return Preview(
        tier=tier.name,
        records=sum(days.values()),
        image_bytes=size,
        days=days,
        splits=dict(sorted(splits.items())),
        views=dict(views),
        rows=tuple(pair.row for pair in pairs),
        pairs=tuple(pairs),
        left=left,
    )


def _faults(tiers: Tiers, granted: dict[str, GrantedRows], day: date, path: Path) -> list[str]:
    faults = []
    for name, tier in tiers.items():
        rows = granted[name].public
        if rows.schema != metadata_schema(tier):
            faults.append(f"tier {name} would export other columns than it grants on {day}; do not export it")
        if tier.within is None:
            continue
        ids = dict(zip(granted[name].pairs, rows["sample_id"].to_pylist(), strict=True))
        more = ids.keys() - set(granted[tier.within].pairs)
        if more:
            faults.append(
                f"{line_in(path, name, 'where')}: {len(more)} records of {day} are in {name} and not in {tier.within} "
                f"(for example sample id {ids[min(more)]}); write a predicate that implies the one of {tier.within}"
            )
    return faults


def _notes(tiers: Tiers, path: Path) -> Iterator[str]:
    for name, tier in tiers.items():
        for told in exposures(tier):
            yield f"{line_in(path, name, 'columns')}: tier {name}: {told}"
        if not tier.shows_hotkeys and (read := check_predicate(tier.where) & IDENTIFYING):
            yield (
                f"{line_in(path, name, 'where')}: tier {name} selects rows by {', '.join(sorted(read))}, which it "
                "withholds, so its selection tells about these columns"
            )


def _first_pairs(corpus: Corpus, granted: GrantedRows, number: int) -> list[Pair]:
    rows = granted.public.slice(0, number).to_pylist()
    pairs = read_pairs(corpus, granted.pointers.slice(0, number), {})
    return [Pair(pair.original, pair.perturbed, row) for pair, row in zip(pairs, rows, strict=True)]
