"""Write one sealed day of a tier: read its images as byte ranges, check them, and write all formats in one pass."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack

import pyarrow as pa

from perturb.sandbox.stored import decode_stored
from perturb.schemas.errors import CorpusError
from perturb.schemas.image import pixel_identity
from perturb.schemas.pair import Pair
from perturb.schemas.png import PngRefused
from perturb.schemas.record import Row
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.day_index import DayIndex, ExportFile, statistics_of
from perturb.sinks.dataset.keys import index_key, tier_folder
from perturb.sinks.dataset.photo_rows import photo_groups
from perturb.sinks.dataset.writers import WRITERS, Format, PairBatch, formats_of, row_groups
from perturb.sinks.stores.base import ObjectWriter, Store
from perturb.tasks.export.plan import DayPlan, Shard, cutting_bytes
from perturb.tasks.export.reencode import reencode

# A sealed day is signed as a whole, so that a row of it is not left out silently.
_RESTORE = "restore that file from a copy (`perturb audit` names all that are damaged), then export again"


def write_day(corpus: Corpus, tier: Tier, plan: DayPlan) -> DayIndex:
    """Write the day's files and, last, its index. Complete files of an interrupted run are kept, not written again.

    Raises CorpusError when an image is not what its record says.
    """
    files: list[ExportFile] = []
    for shard in plan.shards:
        files += write_shard(corpus, tier, plan, shard)
    index = DayIndex(
        tier=tier.name,
        day=plan.day,
        records=plan.records,
        merkle_root=plan.merkle_root,
        files=tuple(sorted(files, key=lambda file: file.key)),
        statistics=statistics_of(plan.rows.public, plan.rows.split, tier.views),
    )
    place = index_key(tier.name, plan.day)
    if not corpus.store.put_new(place, index.to_json()):
        raise CorpusError(f"{place} differs from the index of this run; delete it and export again")
    return index


def write_shard(
    corpus: Corpus,
    tier: Tier,
    plan: DayPlan,
    shard: Shard,
    *,
    formats: Sequence[Format] | None = None,
) -> list[ExportFile]:
    """Write one file in each format (default: those of the tier); a group's images are read once for all formats.

    Raises CorpusError when an image is not what its record says, and when another process creates a file with other
    bytes meanwhile.
    """
    formats = formats_of(tier) if formats is None else formats
    keys = {format: tier_folder(tier.name) + shard.key(format) for format in formats}
    found = {format: _existing(corpus.store, key) for format, key in keys.items()}
    missing = [format for format in formats if found[format] is None]
    if missing:
        with ExitStack() as stack:
            sinks = {format: stack.enter_context(corpus.store.create(keys[format])) for format in missing}
            _write_rows(corpus, tier, plan, shard, sinks)
        found |= {format: (sink.size, sink.sha256) for format, sink in sinks.items()}
        for format, sink in sinks.items():
            if not sink.won:
                raise CorpusError(
                    f"another process created {keys[format]} with other bytes meanwhile; delete it and export again"
                )
    return [
        ExportFile(
            key=shard.key(format),
            root=format,
            split=shard.split,
            rows=_rows(plan, shard, format),
            size=made[0],
            sha256=made[1],
        )
        for format, made in found.items()
        if made is not None
    ]


def _rows(plan: DayPlan, shard: Shard, format: Format) -> int:
    length: int = shard.rows.stop - shard.rows.start
    if format != "by_photo":
        return length
    return len(photo_groups(plan.rows.public.slice(shard.rows.start, length), plan.rows.photographs[shard.rows]))


def _write_rows(corpus: Corpus, tier: Tier, plan: DayPlan, shard: Shard, sinks: dict[Format, ObjectWriter]) -> None:
    writers = [WRITERS[format](sink, tier) for format, sink in sinks.items()]
    known: dict[str, bytes] = {}
    sizes = cutting_bytes(plan.rows, tier)[shard.rows]
    try:
        for group in row_groups(sizes):
            start, length = shard.rows.start + group.start, group.stop - group.start
            pairs = read_pairs(corpus, plan.rows.pointers.slice(start, length), known)
            originals = [pair.original for pair in pairs]
            perturbed = [pair.perturbed for pair in pairs] if tier.shows_hotkeys else reencode(pairs)
            photographs = plan.rows.photographs[start : start + length]
            batch = PairBatch(plan.rows.public.slice(start, length), originals, perturbed, photographs)
            for writer in writers:
                writer.add(batch)
        for writer in writers:
            writer.finish()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise


def read_pairs(corpus: Corpus, pointers: pa.Table, known: dict[str, bytes]) -> list[Pair]:
    """Read both images of each row of `GrantedRows.pointers`, each original once.

    `known` has the sha256 of the PNG of each original that was compared before, by its pixel identity; those of these
    rows are added. Raises CorpusError when an image is not what its record says: a perturbed image must have the sha256
    that the miner signed, an original the pixels that the record states.
    """
    pairs = corpus.read_pairs(pointers.to_pylist())
    _check_originals(pairs, known)
    for pair in pairs:
        if hashlib.sha256(pair.perturbed).hexdigest() != pair.row["body_sha256"]:
            raise CorpusError(
                f"the image of record {pair.row['record_id']} at byte {pair.row['perturbed_offset']} of "
                f"{pair.row['perturbed_shard']} is not what the miner signed; {_RESTORE}"
            )
    return pairs


def _check_originals(pairs: Sequence[Pair], known: dict[str, bytes]) -> None:
    originals = {(pair.row["original_shard"], pair.row["original_offset"]): pair for pair in pairs}
    digests = {place: hashlib.sha256(pair.original).digest() for place, pair in originals.items()}
    fresh = [place for place, pair in originals.items() if known.get(pair.row["original_sha256"]) != digests[place]]
    images = [(originals[place].original, *_size(originals[place].row)) for place in fresh]
    for place, pixels in zip(fresh, decode_stored(images), strict=True):
        row = originals[place].row
        if isinstance(pixels, PngRefused) or pixel_identity(pixels) != row["original_sha256"]:
            reason = pixels.detail if isinstance(pixels, PngRefused) else "its pixels have another identity"
            raise CorpusError(
                f"the original of record {row['record_id']} at byte {place[1]} of {place[0]} is damaged ({reason}); "
                f"{_RESTORE}"
            )
        known[row["original_sha256"]] = digests[place]


def _size(row: Row) -> tuple[int, int]:
    return row["height"], row["width"]


def _existing(store: Store, key: str) -> tuple[int, str] | None:
    """Return size and sha256 of a file that an earlier run completed; None if it is missing."""
    entry = store.head(key)
    return None if entry is None else (entry.size, store.sha256(key, entry.size))
