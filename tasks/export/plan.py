"""The plan of an export: the sealed days that are due, their rows, and the files that the rows are written into."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset as ds

from perturb.schemas.outcome import Outcome
from perturb.schemas.tier import SPLITS, Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.writers import SUFFIXES, Format
from perturb.tasks.tiers.grant import GrantedRows, grant, needed_columns

# Bytes of images in one file.
SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Shard:
    """The rows of one file: a slice of the day's granted rows, the same in each format; `image_bytes` in one format."""

    day: date
    split: str
    number: int
    rows: slice
    image_bytes: int

    def key(self, format: Format) -> str:
        """Return the file's key, relative to the tier's folder."""
        return f"{format}/data/{self.split}/{self.day.isoformat()}-{self.number:05d}.{SUFFIXES[format]}"


@dataclass(frozen=True)
class DayPlan:
    """One sealed day as a tier gets it: its rows, and the files that they are written into."""

    day: date
    merkle_root: str
    rows: GrantedRows
    shards: tuple[Shard, ...]

    @property
    def records(self) -> int:
        """Number of rows."""
        return len(self.rows.split)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images in one format; headers and metadata add a few percent."""
        return sum(shard.image_bytes for shard in self.shards)


def due(manifest: Manifest, tier: Tier, today: date) -> bool:
    """Return whether a sealed day may be exported: `delay_days` have passed since its end."""
    return today >= manifest.day + timedelta(days=1 + tier.delay_days) or tier.delay_days == 0


def plan_day(corpus: Corpus, manifest: Manifest, tier: Tier, *, key: bytes, shard_bytes: int = SHARD_BYTES) -> DayPlan:
    """Read the metadata of the day (only the columns that the tier needs), apply the grant, and plan the files.

    No file holds more than `shard_bytes` of images, except a file of a single row.
    """
    rows = grant(accepted_rows(corpus, manifest, [tier]), tier, key=key)
    shards = tuple(_shards(manifest.day, rows, shard_bytes))
    return DayPlan(manifest.day, manifest.merkle_root, rows, shards)


def accepted_rows(corpus: Corpus, manifest: Manifest, tiers: Iterable[Tier]) -> pa.Table:
    """Read the accepted records of a sealed day, with the columns that any of the tiers needs."""
    columns = sorted({name for tier in tiers for name in needed_columns(tier)})
    return corpus.metadata(manifest).to_table(columns=columns, filter=ds.field("outcome") == str(Outcome.ACCEPTED))


def image_bytes(rows: GrantedRows) -> list[int]:
    """Return the bytes of both images together, for each row."""
    pointers = rows.pointers
    lengths = zip(pointers["original_length"].to_pylist(), pointers["perturbed_length"].to_pylist(), strict=True)
    return [original + perturbed for original, perturbed in lengths]


def _shards(day: date, rows: GrantedRows, shard_bytes: int) -> Iterator[Shard]:
    sizes = image_bytes(rows)
    for split in SPLITS:
        places = [row for row, name in enumerate(rows.split) if name == split]
        number, start, total = 0, places[0] if places else 0, 0
        for row in places:
            if total and total + sizes[row] > shard_bytes:
                yield Shard(day, split, number, slice(start, row), total)
                number, start, total = number + 1, row, 0
            total += sizes[row]
        if places:
            yield Shard(day, split, number, slice(start, places[-1] + 1), total)
