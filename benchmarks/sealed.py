"""Writes a large sealed day for benchmarks directly into a store. It repeats a small pool of real PNGs.

Each record has its own IDs, digests and metrics. Only the bytes of images recur. IDs are invented and tables are left
out, so that an audit of the corpus finds faults; `tests/support/old_corpus.py` makes one whose metadata hold.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from perturb.schemas.record import make_record
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.manifest import FileEntry, Manifest, Reverified
from perturb.sinks.formats.parquet import rows_table, table_writer
from perturb.sinks.formats.tar import TarWriter
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.stores.base import Store
from tests.support.synthetic import make_round

DAY = date(2026, 1, 31)
ANSWERS = 8
_POOL = 24
_GROUP = 4096


@dataclass(frozen=True)
class Sample:
    """A metadata row (pointers unset) with both images."""

    row: dict[str, Any]
    original: bytes
    perturbed: bytes


def samples(records: int, *, side: int, seed: int = 0, answers: int = ANSWERS) -> Iterator[Sample]:
    """`records` accepted rows, `answers` for each photograph; the same ones for the same seed."""
    random = np.random.default_rng(seed)
    pool = [make_round([seed, number], miners=answers, refused=0, side=side) for number in range(_POOL)]
    for place in range(records):
        number, answer = divmod(place, answers)
        made = pool[number % _POOL]
        record = make_record(
            made.challenge, made.responses[answer], made.verdicts[answer], made.scores[answer],
            netuid=26, block=None, validator_hotkey="synthetic",
        )  # fmt: skip
        row = record.model_dump() | {
            "record_id": random.bytes(16).hex(),
            "task_id": hashlib.sha256(b"task%d" % number).hexdigest()[:32],
            "original_sha256": hashlib.sha256(b"original%d" % number).hexdigest(),
            "margin": float(random.random() * 5),
        }
        yield Sample(row, made.challenge.png, made.responses[answer].body)


def write_sealed(store: Store, records: int, *, side: int, answers: int = ANSWERS) -> Corpus:
    """Write one sealed day of `records` rows; return its corpus."""
    folder = keys.day_folder(keys.SEALED, DAY) + "benchmark/"
    shards = {kind: f"{folder}{kind}-00000.tar" for kind in ("original", "perturbed")}
    metadata = folder + "metadata-00000.parquet"
    files: list[FileEntry] = []
    with (
        store.create(shards["original"]) as original,
        store.create(shards["perturbed"]) as perturbed,
        store.create(metadata) as table_file,
        table_writer(table_file, statement={"kind": "sealed-day", "day": DAY.isoformat()}) as table,
    ):
        originals, versions = TarWriter(original), TarWriter(perturbed)
        seen: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        for sample in samples(records, side=side, answers=answers):
            identity = sample.row["original_sha256"]
            if identity not in seen:
                seen = {identity: originals.add(keys.original_name(identity), sample.original)}
            changed = versions.add(keys.perturbed_name(sample.row["record_id"]), sample.perturbed)
            for kind, member in (("original", seen[identity]), ("perturbed", changed)):
                sample.row[f"{kind}_shard"] = shards[kind]
                sample.row[f"{kind}_offset"], sample.row[f"{kind}_length"] = member.offset, member.length
            rows.append(sample.row)
            if len(rows) == _GROUP:
                table.add(rows_table(rows))
                rows = []
        table.add(rows_table(rows))
        for part in (originals, versions):
            part.finish()
    for kind, key, file in (
        ("original", shards["original"], original),
        ("perturbed", shards["perturbed"], perturbed),
        ("metadata", metadata, table_file),
    ):
        files.append(FileEntry(key=key, kind=kind, size=file.size, sha256=file.sha256, rows=records))
    manifest = Manifest(
        format=FORMAT, records=records, images=records, merkle_root="0" * 64, files=tuple(files), day=DAY,
        sealed_at=datetime(2026, 2, 1, tzinfo=UTC), attempt="benchmark", originals=-(-records // answers), duplicates=0,
        outcomes={"accepted": records}, validators=(), rounds=0, first_round=None, last_round=None, previous_day=None,
        reverified=Reverified(fraction=0, records=0),
    )  # fmt: skip
    store.put(keys.manifest_key(DAY), manifest.to_json())
    return Corpus(store)
