"""Writing one sealed day of a tier: images copied as byte ranges, checked, into both roots in one pass."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pyarrow as pa

from perturb.schemas.errors import CorpusError
from perturb.schemas.png import PngRefused, check_png
from perturb.schemas.tier import Tier
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.dataset.day_index import DayDigest, ExportFile, count
from perturb.sinks.dataset.writers import WRITERS, row_groups
from perturb.sinks.stores.base import ObjectWriter, Store
from perturb.tasks.export.operator_state import tier_folder
from perturb.tasks.export.plan import DayPlan, Shard, image_bytes

ROOTS = ("parquet", "wds")
Progress = Callable[[int], None]


def write_day(corpus: Corpus, tier: Tier, plan: DayPlan, *, progress: Progress = lambda _: None) -> DayDigest:
    """Write the day's files and, last, its digest. Files that an interrupted run left are kept, not written again.

    `progress` is told the image bytes of each group of rows that was written.
    Raises CorpusError where an image is not what its record says.
    """
    files: list[ExportFile] = []
    for shard in plan.shards:
        files += write_shard(corpus, tier, plan, shard, progress=progress)
    digest = DayDigest(
        tier=tier.name,
        day=plan.day,
        records=plan.records,
        merkle_root=plan.merkle_root,
        files=tuple(sorted(files, key=lambda file: file.key)),
        statistics=count(plan.selection.public, plan.selection.split, tier.views),
    )
    place = digest_key(tier.name, plan.day.isoformat())
    if not corpus.store.put_new(place, digest.to_json()):
        raise CorpusError(f"{place} says something else than this run; delete it and export again")
    return digest


def digest_key(tier: str, day: str) -> str:
    """The object whose presence says that a day is exported."""
    return f"{tier_folder(tier)}.perturb/{day}.json"


def write_shard(
    corpus: Corpus,
    tier: Tier,
    plan: DayPlan,
    shard: Shard,
    *,
    roots: Sequence[str] = ROOTS,
    progress: Progress = lambda _: None,
) -> list[ExportFile]:
    """Write one shard in each root; the images of a group of rows are read once for all of them."""
    rows = shard.rows.stop - shard.rows.start
    keys = {root: tier_folder(tier.name) + shard.key(root) for root in roots}
    found = {root: _existing(corpus.store, key) for root, key in keys.items()}
    missing = [root for root in roots if found[root] is None]
    if missing:
        with ExitStack() as stack:
            sinks = {root: stack.enter_context(corpus.store.create(keys[root])) for root in missing}
            _write_rows(corpus, tier, plan, shard, sinks, progress)
        found |= {root: (sink.size, sink.sha256) for root, sink in sinks.items()}
        for root, sink in sinks.items():
            if not sink.won:
                raise CorpusError(f"{keys[root]} appeared while it was written, with other bytes; delete it and go on")
    return [
        ExportFile(key=shard.key(root), root=root, split=shard.split, rows=rows, size=made[0], sha256=made[1])
        for root, made in found.items()
        if made is not None
    ]


def _write_rows(
    corpus: Corpus, tier: Tier, plan: DayPlan, shard: Shard, sinks: dict[str, ObjectWriter], progress: Progress
) -> None:
    writers = [WRITERS[root](sink, tier) for root, sink in sinks.items()]
    sizes = image_bytes(plan.selection)[shard.rows]
    try:
        for group in row_groups(sizes):
            start, length = shard.rows.start + group.start, group.stop - group.start
            originals, perturbed = read_pairs(corpus, plan.selection.pointers.slice(start, length))
            public = plan.selection.public.slice(start, length)
            for writer in writers:
                writer.add(public, originals, perturbed)
            progress(sum(sizes[group]))
        for writer in writers:
            writer.finish()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise


def read_pairs(corpus: Corpus, pointers: pa.Table) -> tuple[list[bytes], list[bytes]]:
    """Both images of each row, each original read once. Raises CorpusError where one isn't what its record says.

    A perturbed image must have the digest that the miner signed; an original must be a whole PNG of its size.
    """
    rows = pointers.to_pylist()
    places = {(row["original_shard"], row["original_offset"], row["original_length"]): row for row in rows}
    originals = _read(corpus, list(places))
    for (shard, offset, _), row in places.items():
        try:
            check_png(originals[shard, offset], height=row["height"], width=row["width"])
        except PngRefused as error:
            raise CorpusError(
                f"the original at byte {offset} of {shard} is damaged ({error}); run perturb audit"
            ) from error
    perturbed = _read(
        corpus, [(row["perturbed_shard"], row["perturbed_offset"], row["perturbed_length"]) for row in rows]
    )
    for row in rows:
        shard, offset = row["perturbed_shard"], row["perturbed_offset"]
        if hashlib.sha256(perturbed[shard, offset]).hexdigest() != row["body_sha256"]:
            raise CorpusError(f"the image at byte {offset} of {shard} is not what the miner signed; run perturb audit")
    return (
        [originals[row["original_shard"], row["original_offset"]] for row in rows],
        [perturbed[row["perturbed_shard"], row["perturbed_offset"]] for row in rows],
    )


def _read(corpus: Corpus, places: Sequence[tuple[str, int, int]]) -> dict[tuple[str, int], bytes]:
    by_shard: dict[str, list[tuple[int, int]]] = {}
    for shard, offset, length in sorted(places):
        by_shard.setdefault(shard, []).append((offset, length))
    return {
        (shard, offset): data
        for shard, ranges in by_shard.items()
        for (offset, _), data in zip(ranges, corpus.read_images(shard, ranges), strict=True)
    }


def _existing(store: Store, key: str) -> tuple[int, str] | None:
    """Size and sha256 of a file that an earlier run completed."""
    entry = store.head(key)
    if entry is None:
        return None
    digest = hashlib.sha256()
    for piece in store.stream(key, entry.size):
        digest.update(piece)
    return entry.size, digest.hexdigest()
