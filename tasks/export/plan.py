"""The plan of an export: the sealed days that are due, their rows, and the files that the rows are written into."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.dataset as ds

from perturb.schemas.outcome import Outcome
from perturb.schemas.png import max_png_bytes
from perturb.schemas.tier import SPLITS, Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.verified import verified_metadata
from perturb.sinks.dataset.writers import SUFFIXES, Format
from perturb.tasks.tiers.grant import GrantedRows, grant, needed_columns

# Bytes of images in one file.
SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Shard:
    """The rows of one file: a slice of the day's granted rows, the same in each format.

    `image_bytes` are those of its images in a format of pairs, as the corpus holds them.
    """

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
        """Bytes of the images in a format of pairs, as the corpus has them; headers and metadata add a few percent."""
        return sum(shard.image_bytes for shard in self.shards)

    def bytes_in(self, format: Format) -> int:
        """Return the bytes of the images in a format: by photograph, each photograph counts once."""
        if format != "by_photo":
            return self.image_bytes
        pointers = self.rows.pointers
        originals = dict(zip(self.rows.photographs, pointers["original_length"].to_pylist(), strict=True))
        total: int = sum(originals.values()) + sum(pointers["perturbed_length"].to_pylist())
        return total


def due(day: date, tier: Tier, today: date) -> bool:
    """Return whether a sealed day may be exported: `delay_days` have passed since its end."""
    return today >= day + timedelta(days=1 + tier.delay_days) or tier.delay_days == 0


def plan_day(corpus: Corpus, manifest: Manifest, tier: Tier, *, key: bytes, shard_bytes: int = SHARD_BYTES) -> DayPlan:
    """Read the metadata of the day (only the columns that the tier needs), apply the grant, and plan the files.

    No file holds more than `shard_bytes` of images, except a file of a single row. In a tier that is exported by
    photograph, a photograph is in one file, so that its row is whole.
    """
    rows = grant(accepted_rows(corpus, manifest, [tier]), tier, key=key)
    shards = tuple(_shards(manifest.day, rows, tier, shard_bytes))
    return DayPlan(manifest.day, manifest.merkle_root, rows, shards)


def accepted_rows(corpus: Corpus, manifest: Manifest, tiers: Iterable[Tier]) -> pa.Table:
    """Read the accepted records of a sealed day, with the columns that any of the tiers needs.

    Raises CorpusError where the metadata are not those that the manifest states.
    """
    columns = sorted({name for tier in tiers for name in needed_columns(tier)})
    with verified_metadata(corpus.store, manifest) as records:
        return records.to_table(columns=columns, filter=ds.field("outcome") == str(Outcome.ACCEPTED))


def image_bytes(rows: GrantedRows) -> list[int]:
    """Return the bytes of both images together in the corpus, for each row: a photograph counts with each pair."""
    pointers = rows.pointers
    lengths = zip(pointers["original_length"].to_pylist(), pointers["perturbed_length"].to_pylist(), strict=True)
    return [original + perturbed for original, perturbed in lengths]


def cutting_bytes(rows: GrantedRows, tier: Tier) -> list[int]:
    """Return for each row the maximum bytes of both images in the export, by which files and row groups are cut.

    Where images are encoded anew, the length of the miner's file must not show in a cut: the maximum of a PNG of that
    size takes its place.
    """
    if tier.shows_hotkeys:
        return image_bytes(rows)
    pointers = rows.pointers
    sides = zip(pointers["height"].to_pylist(), pointers["width"].to_pylist(), strict=True)
    maxima = [max_png_bytes(height, width) for height, width in sides]
    return [length + most for length, most in zip(pointers["original_length"].to_pylist(), maxima, strict=True)]


def _shards(day: date, rows: GrantedRows, tier: Tier, shard_bytes: int) -> Iterator[Shard]:
    sizes, stored = cutting_bytes(rows, tier), image_bytes(rows)
    whole = "by_photo" in tier.layouts
    for split in SPLITS:
        places = [row for row, name in enumerate(rows.split) if name == split]
        number, start, total = 0, places[0] if places else 0, 0
        for row, size in _units(places, sizes, rows.photographs if whole else None):
            if total and total + size > shard_bytes:
                yield Shard(day, split, number, slice(start, row), sum(stored[start:row]))
                number, start, total = number + 1, row, 0
            total += size
        if places:
            end = places[-1] + 1
            yield Shard(day, split, number, slice(start, end), sum(stored[start:end]))


def _units(places: Sequence[int], sizes: Sequence[int], photographs: Sequence[str] | None) -> list[tuple[int, int]]:
    """Return the first row and the bytes of what may not be cut: single rows, or all rows of a photograph."""
    units: list[tuple[int, int]] = []
    for row in places:
        if photographs is not None and row > places[0] and photographs[row] == photographs[row - 1]:
            first, size = units[-1]
            units[-1] = (first, size + sizes[row])
        else:
            units.append((row, sizes[row]))
    return units
