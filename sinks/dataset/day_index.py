"""The index of a sealed day in an export: the files it added with their sha256, and counts for the card.

An index is made from the exported rows alone. It is written once, after the files that it names.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from functools import reduce
from math import fsum
from operator import add
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.errors import CorpusError
from perturb.sinks.dataset.keys import exported_days, index_key
from perturb.sinks.stores.base import Store

FORMAT = 1

# Fixed bins, so that days can be added up: (first edge, width, number). The outer bins count all values beyond them.
HISTOGRAMS: dict[str, tuple[float, float, int]] = {
    "linf_levels": (0.5, 1.0, 32),
    "ssim": (0.98, 0.0005, 40),
    "psnr": (36.0, 1.0, 40),
    "score": (0.0, 0.05, 20),
    "quality": (0.0, 0.05, 20),
    "margin": (0.0, 0.5, 40),
    "adversarial_confidence": (0.0, 0.05, 20),
    "clean_confidence": (0.0, 0.05, 20),
    "response_ms": (0.0, 500.0, 40),
    "hypernym_height": (0.5, 1.0, 18),
}
_COUNTED = ("true_label_name", "adversarial_label_name", "source", "license", "classifier")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Histogram(_Part):
    """One numeric column: counts in the bins of `HISTOGRAMS`, the extremes, and the sum (`total`) of its values."""

    count: int
    min: float
    max: float
    total: float
    bins: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return self.total / self.count


class Statistics(_Part):
    """Counts over exported rows: `views` by view and split, `flips` by `true label → adversarial label`."""

    splits: dict[str, int] = {}
    views: dict[str, dict[str, int]] = {}
    numbers: dict[str, Histogram] = {}
    counts: dict[str, dict[str, int]] = {}
    flips: dict[str, int] = {}


class ExportFile(_Part):
    """One file of an export.

    `key` is relative to the tier's folder (`parquet/data/train/…`), `root` the format (`parquet`, `wds` or `by_photo`),
    `rows` the number of its rows (records, or photographs in `by_photo`), `size` in bytes.
    """

    key: str
    root: str
    split: str
    rows: int = Field(ge=0)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class DayIndex(_Part):
    """What a day added. `merkle_root` is that of the sealed day, which the validator commits on chain."""

    format: int = FORMAT
    tier: str
    day: date
    records: int = Field(ge=0)
    merkle_root: str
    files: tuple[ExportFile, ...]
    statistics: Statistics

    def to_json(self) -> bytes:
        """Return the index as canonical JSON."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def read_day_indexes(store: Store, tier: str, *, after: date | None = None) -> list[DayIndex]:
    """Return the indexes of the exported days of a tier, or of those after a day, in the order of days.

    Raises CorpusError for a damaged one.
    """
    since = None if after is None else after + timedelta(days=1)
    places = [index_key(tier, day) for day in exported_days(store, tier, since=since)]
    return [_parse(store.get(place), place) for place in places]


def _parse(data: bytes, place: str) -> DayIndex:
    try:
        return DayIndex.model_validate_json(data)
    except ValidationError as error:
        raise CorpusError(f"{place} is not the index of a day ({error.errors()[0]['msg']}); restore it") from error


def export_version(days: int) -> str:
    """Return the version of an export of so many days: each day is a minor version, even if one run adds several."""
    return f"1.{days}.0"


def statistics_of(rows: pa.Table, splits: Sequence[str], views: Iterable[str]) -> Statistics:
    """Return the statistics of exported rows; `splits` names the split of each row. Columns not granted are skipped."""
    present = set(rows.column_names)
    named = {name: rows[name].to_pylist() for name in _COUNTED if name in present}
    flips: Counter[str] = Counter()
    if {"true_label_name", "adversarial_label_name"} <= present:
        pairs = zip(named["true_label_name"], named["adversarial_label_name"], strict=True)
        flips.update(f"{true} → {adversarial}" for true, adversarial in pairs)
    return Statistics(
        splits=_counts(splits),
        views={
            view: _counts(split for split, held in zip(splits, rows[view].to_pylist(), strict=True) if held)
            for view in views
        },
        numbers={
            name: made for name in HISTOGRAMS if name in present and (made := _histogram(name, rows[name].to_pylist()))
        },
        counts={name: _counts("unknown" if value is None else value for value in named[name]) for name in named},
        flips=_counts(flips.elements()),
    )


def add_up(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics of all rows together. Sums of floats are taken in the order of the parts."""
    return Statistics(
        splits=_sum(part.splits for part in parts),
        views={view: _sum(part.views.get(view, {}) for part in parts) for view in _keys(part.views for part in parts)},
        numbers={
            name: _merge([part.numbers[name] for part in parts if name in part.numbers])
            for name in _keys(part.numbers for part in parts)
        },
        counts={
            name: _sum(part.counts.get(name, {}) for part in parts) for name in _keys(part.counts for part in parts)
        },
        flips=_sum(part.flips for part in parts),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


def _keys(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for part in parts for name in part})


def _histogram(name: str, values: Sequence[float | None]) -> Histogram | None:
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    first, step, bins = HISTOGRAMS[name]
    found = [0] * bins
    for value in known:
        found[min(bins - 1, max(0, int((value - first) // step)))] += 1
    return Histogram(count=len(known), min=min(known), max=max(known), total=fsum(known), bins=tuple(found))


def _merge(parts: Sequence[Histogram]) -> Histogram:
    return Histogram(
        count=sum(part.count for part in parts),
        min=min(part.min for part in parts),
        max=max(part.max for part in parts),
        # One after the other, so that adding days one by one gives what adding all at once does.
        total=reduce(add, (part.total for part in parts)),
        bins=tuple(sum(bins) for bins in zip(*(part.bins for part in parts), strict=True)),
    )
