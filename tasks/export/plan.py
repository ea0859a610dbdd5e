"""What an export would write: the sealed days that are due, their rows, and the files these go into."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow.dataset as ds

from perturb.schemas.outcome import Outcome
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.dataset.writers import SUFFIXES
from perturb.tasks.tiers.grant import SPLITS, Selection, needed_columns, select

# Bytes of images in one file.
SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Shard:
    """A file's worth of rows: `rows` of the day's selection, the same for each root."""

    day: date
    split: str
    number: int
    rows: slice
    image_bytes: int

    def key(self, root: str) -> str:
        """The file below the tier's folder."""
        return f"{root}/data/{self.split}/{self.day.isoformat()}-{self.number:05d}.{SUFFIXES[root]}"


@dataclass(frozen=True)
class DayPlan:
    """One sealed day as a tier gets it."""

    day: date
    merkle_root: str
    selection: Selection
    shards: tuple[Shard, ...]

    @property
    def records(self) -> int:
        """Rows."""
        return len(self.selection.split)

    @property
    def image_bytes(self) -> int:
        """Bytes of the images in one root, to which headers and metadata add a few percent."""
        return sum(shard.image_bytes for shard in self.shards)


def due(manifest: Manifest, tier: Tier, today: date) -> bool:
    """Whether a sealed day may be exported: `delay_days` after its end have passed."""
    return today >= manifest.day + timedelta(days=1 + tier.delay_days) or tier.delay_days == 0


def plan_day(corpus: Corpus, manifest: Manifest, tier: Tier, *, key: bytes, shard_bytes: int = SHARD_BYTES) -> DayPlan:
    """Read the day's metadata (only the columns that the tier needs), apply the grant, and lay out the files."""
    table = corpus.metadata(manifest).to_table(
        columns=needed_columns(tier), filter=ds.field("outcome") == str(Outcome.ACCEPTED)
    )
    selection = select(table, tier, key=key)
    shards = tuple(_shards(manifest.day, selection, shard_bytes))
    return DayPlan(manifest.day, manifest.merkle_root, selection, shards)


def image_bytes(selection: Selection) -> list[int]:
    """Bytes of both images, row by row."""
    pointers = selection.pointers
    lengths = zip(pointers["original_length"].to_pylist(), pointers["perturbed_length"].to_pylist(), strict=True)
    return [original + perturbed for original, perturbed in lengths]


def _shards(day: date, selection: Selection, shard_bytes: int) -> Iterator[Shard]:
    sizes = image_bytes(selection)
    for split in SPLITS:
        places = [row for row, name in enumerate(selection.split) if name == split]
        number, start, total = 0, places[0] if places else 0, 0
        for row in places:
            if total and total + sizes[row] > shard_bytes:
                yield Shard(day, split, number, slice(start, row), total)
                number, start, total = number + 1, row, 0
            total += sizes[row]
        if places:
            yield Shard(day, split, number, slice(start, places[-1] + 1), total)
