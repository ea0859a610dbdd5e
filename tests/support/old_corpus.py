"""Corpora of many sealed days, made fast. Metadata, tables, manifests and log are real, images are left out.

    age(store, days=1825, rounds=720, miners=8)

Rows are made a day at a time, by columns. Their record and task IDs follow from what they state, their leaves and roots
are those of the real code, which is asked for one leaf of each day; files are written by the writers that sealing uses.
Miners' signatures are invented, and the shards that rows point to do not exist.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from perturb.schemas.canonical_json import canonical_json
from perturb.schemas.challenge import Terms
from perturb.schemas.record import Record, Row, make_record, record_id, record_schema, terms_of
from perturb.schemas.settings import S3Settings
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.day_tables import TableKind, rows_of, write_day_table
from perturb.sinks.corpus.day_writer import DayTotals
from perturb.sinks.corpus.manifest import FileEntry, Manifest, Reverified, RoundName
from perturb.sinks.corpus.miner_state import Tenure, state_table
from perturb.sinks.corpus.sealed_days import day_entry
from perturb.sinks.formats.merkle import canonical_record, leaf_hash, merkle_root
from perturb.sinks.formats.parquet import table_writer
from perturb.sinks.formats.version import FORMAT
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import Store
from perturb.sinks.stores.open import open_store
from perturb.subnet.keys import development_keypair
from tests.support.synthetic import make_round

VALIDATOR = development_keypair("//PerturbValidator")
# What differs between rows; all other columns are those of one synthetic record.
_TEXTS = (
    *("record_id", "round_id", "task_id", "task_salt", "created_at", "miner_hotkey", "outcome", "body_sha256"),
    *("request_nonce", "miner_signature", "original_sha256", "perturbed_sha256"),
)
_NUMBERS = ("miner_uid", "response_ms", "score")


@dataclass(frozen=True)
class DayFiles:
    """What one day's files hold, for its manifest. `accepted` counts by uid."""

    day: date
    files: tuple[FileEntry, ...]
    merkle_root: str
    records: int
    accepted: tuple[int, ...]
    first_round: str
    last_round: str
    some_record: str


@cache
def hotkeys(miners: int) -> tuple[str, ...]:
    """Return the ss58 addresses of so many miners."""
    return tuple(development_keypair(f"//Synthetic{uid}").ss58_address for uid in range(miners))


def age(
    store: Store, *, days: int, rounds: int, miners: int, last: date, processes: int = 1, s3: S3Settings | None = None
) -> Iterator[DayFiles]:
    """Seal `days` days up to `last` in an empty corpus, and yield each when it is sealed."""
    first = last - timedelta(days=days - 1)
    plan = [(store.url, s3, first + timedelta(days=place), rounds, miners) for place in range(days)]
    log, entry, before = Log(store), None, None
    state: dict[tuple[int, int], Tenure] = {}
    with _unsynced(), ProcessPoolExecutor(processes) as pool:
        for made in pool.map(_write, plan) if processes > 1 else map(_write, plan):
            folder, at = _folder(made.day), _midnight(made.day + timedelta(days=1)) + timedelta(minutes=45)
            state = _after(state, made, rounds, miners)
            table = write_day_table(store, folder, "miners", state_table(state), day=made.day)
            manifest = _manifest(made, [*made.files, table], rounds, before, at)
            data = manifest.to_json()
            store.put_new(folder + keys.MANIFEST, data)
            entry = log.try_append(entry, day_entry(manifest), signer=VALIDATOR, at=at)
            store.put_new(keys.manifest_key(made.day), data)
            before = made.day
            yield made


def _write(plan: tuple[str, S3Settings | None, date, int, int]) -> DayFiles:
    """Write the metadata and the tables of one day."""
    url, s3, day, rounds, miners = plan
    with _unsynced():
        store = open_store(url, s3) if s3 else open_store(url)
        columns = _columns(day, rounds, miners)
        order = sorted(range(rounds * miners), key=columns["record_id"].__getitem__)
        columns = {name: [values[place] for place in order] for name, values in columns.items()}
        table = _table(columns)
        root = merkle_root(_leaves(columns, table))
        folder, totals = _folder(day), DayTotals()
        totals.summarise(table)
        some = table.slice(0, 1).to_pylist()
        totals.count(some)
        key = f"{folder}metadata-00000.parquet"
        statement = {"kind": "sealed-day", "day": day.isoformat()}
        with store.create(key) as file, table_writer(file, statement=statement) as writer:
            writer.add(table)
        files = [FileEntry(key=key, kind="metadata", size=file.size, sha256=file.sha256, rows=table.num_rows)]
        names = sorted(set(columns["round_id"]))
        claims = [
            {"date": day, "round_id": name, "commit_sha256": "0" * 64, "merkle_root": "0" * 64, "records": miners}
            for name in names
        ]
        tables: dict[TableKind, list[Row]] = {
            "claims": claims, "models": totals.models(), "statistics": totals.statistics()
        }  # fmt: skip
        files += [write_day_table(store, folder, kind, rows_of(rows, kind), day=day) for kind, rows in tables.items()]
        taken = np.bincount(
            [
                uid
                for uid, outcome in zip(columns["miner_uid"], columns["outcome"], strict=True)
                if outcome == "accepted"
            ],
            minlength=miners,
        )
    accepted = tuple(int(count) for count in taken)
    return DayFiles(day, tuple(files), root, table.num_rows, accepted, names[0], names[-1], columns["record_id"][0])


@cache
def _example() -> Record:
    made = make_round(7, miners=1, refused=0, side=16, validator=VALIDATOR.ss58_address)
    return make_record(
        made.challenge, made.responses[0], made.verdicts[0], made.scores[0],
        netuid=26, block=None, validator_hotkey=VALIDATOR.ss58_address,
    )  # fmt: skip


def _columns(day: date, rounds: int, miners: int) -> dict[str, list[Any]]:
    """Return the columns of a day that differ between rows, round by round."""
    random = np.random.default_rng(day.toordinal())
    count, midnight, names = rounds * miners, _midnight(day), hotkeys(miners)
    times = [midnight + timedelta(seconds=86_000 * place / rounds) for place in range(rounds)]
    salts, originals = _hex(random, rounds, 16), _hex(random, rounds, 32)
    head, middle, tail = _terms_template()
    tasks = [
        hashlib.sha256(head + one.encode() + middle + salt.encode() + tail).hexdigest()
        for one, salt in zip(originals, salts, strict=True)
    ]
    numbers = [f"{time:%Y%m%dT%H%M%S%f}Z-{salt[:8]}" for time, salt in zip(times, salts, strict=True)]
    perturbed = _hex(random, count, 32)
    per_round: dict[str, list[Any]] = {
        "round_id": numbers,
        "task_id": tasks,
        "task_salt": salts,
        "created_at": times,
        "original_sha256": originals,
    }
    columns: dict[str, list[Any]] = {
        name: [value for value in values for _ in range(miners)] for name, values in per_round.items()
    }
    columns["miner_uid"] = list(range(miners)) * rounds
    columns["miner_hotkey"] = list(names) * rounds
    prefix = f"{day:%Y%m%d}"
    columns["record_id"] = [
        prefix + hashlib.sha256(f"{task}|{hotkey}|{pixels}".encode()).hexdigest()[:24]
        for task, hotkey, pixels in zip(columns["task_id"], columns["miner_hotkey"], perturbed, strict=True)
    ]
    # The first miner is always accepted, so that each challenge counts.
    refused = (random.random(count) < 1 / 8) & (np.arange(count) % miners > 0)
    columns["outcome"] = ["no_flip" if no else "accepted" for no in refused]
    columns["score"] = [
        0.0 if no else (1 + int(value)) / 1024
        for no, value in zip(refused, random.integers(0, 1023, count), strict=True)
    ]
    columns["response_ms"] = [int(value) + 0.5 for value in random.integers(100, 4000, count)]
    columns["body_sha256"], columns["perturbed_sha256"] = _hex(random, count, 32), perturbed
    columns["request_nonce"], columns["miner_signature"] = _hex(random, count, 8), _hex(random, count, 64)
    first = columns["record_id"][0]
    assert first == record_id(times[0], tasks[0], names[0], perturbed[0]), "the record ID is not that of the real code"
    return columns


def _hex(random: np.random.Generator, count: int, size: int) -> list[str]:
    text = random.bytes(count * size).hex()
    return [text[place : place + 2 * size] for place in range(0, len(text), 2 * size)]


@cache
def _terms_template() -> tuple[bytes, bytes, bytes]:
    """Return what lies around the original and the salt in the bytes whose digest is a task's ID."""
    terms = terms_of(_example()).model_copy(update={"original_sha256": "#one#", "task_salt": "#two#"})
    head, _, rest = canonical_json(terms.model_dump(mode="json", include=set(Terms.model_fields))).partition(b"#one#")
    middle, _, tail = rest.partition(b"#two#")
    return b"perturb-task-1\n" + head, middle, tail


def _table(columns: dict[str, list[Any]]) -> pa.Table:
    example, rows = _example().model_dump(), len(columns["record_id"])
    accepted = np.array([outcome == "accepted" for outcome in columns["outcome"]])
    folder, places = "sealed/example/", np.arange(rows) * 4096 + 512
    pointers: dict[str, Any] = {
        "original_shard": [f"{folder}original-00000.tar"] * rows,
        "original_offset": places,
        "original_length": [3000] * rows,
        "perturbed_shard": [f"{folder}perturbed-00000.tar" if yes else None for yes in accepted],
        "perturbed_offset": pa.array(places, mask=~accepted),
        "perturbed_length": pa.array(np.full(rows, 3000), mask=~accepted),
    }
    known = pointers | columns
    arrays = []
    for field in record_schema():
        if field.name in known:
            arrays.append(pa.array(known[field.name], field.type))
        else:
            arrays.append(pa.repeat(pa.scalar(example[field.name], field.type), rows))
    return pa.table(arrays, record_schema())


def _leaves(columns: dict[str, list[Any]], table: pa.Table) -> list[bytes]:
    """Return the leaf of each row. That of the last one is compared with the real code's."""
    template, names = _leaf_template()
    shown = {name: columns[name] for name in names}
    shown["created_at"] = [time.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for time in columns["created_at"]]
    shown["score"] = [repr(score) if score else "0" for score in columns["score"]]
    leaves = [
        hashlib.sha256((template % values).encode()).digest()
        for values in zip(*(shown[name] for name in names), strict=True)
    ]
    (last,) = table.slice(table.num_rows - 1, 1).to_pylist()
    assert leaves[-1] == leaf_hash(last), "the leaf is not that of the real code"
    return leaves


@cache
def _leaf_template() -> tuple[str, list[str]]:
    """Return the bytes of a leaf as text with a place for each column that differs, and these columns in order."""
    row: dict[str, Any] = canonical_record(_example().model_dump())
    row |= {name: f"#{name}#" for name in (*_TEXTS, *_NUMBERS)}
    text = "\x00" + canonical_json(row).decode().replace("%", "%%")
    for name in _TEXTS:
        text = text.replace(f"#{name}#", "%s")
    for name in _NUMBERS:
        text = text.replace(f'"#{name}#"', "%s")
    return text, sorted((*_TEXTS, *_NUMBERS))


def _after(
    state: dict[tuple[int, int], Tenure], made: DayFiles, rounds: int, miners: int
) -> dict[tuple[int, int], Tenure]:
    """Return the state after a day on which all miners were asked and answered, and each challenge counts."""
    found = {}
    for uid, hotkey in enumerate(hotkeys(miners)):
        earlier = state.get((26, uid))
        since = (_midnight(made.day), made.first_round) if earlier is None else (earlier.since, earlier.since_round)
        asked = rounds + (earlier.asked if earlier else 0)
        accepted = made.accepted[uid] + (earlier.accepted if earlier else 0)
        found[26, uid] = Tenure(26, uid, hotkey, *since, asked, asked, accepted, asked, made.day)
    return found


def _manifest(made: DayFiles, files: Sequence[FileEntry], rounds: int, before: date | None, at: datetime) -> Manifest:
    accepted = sum(made.accepted)
    return Manifest(
        format=FORMAT,
        day=made.day,
        sealed_at=at,
        attempt=_attempt(made.day),
        records=made.records,
        originals=rounds,
        images=accepted,
        duplicates=0,
        merkle_root=made.merkle_root,
        outcomes={"accepted": accepted, "no_flip": made.records - accepted},
        validators=(VALIDATOR.ss58_address,),
        files=tuple(sorted(files, key=lambda file: file.key)),
        rounds=rounds,
        first_round=RoundName(date=made.day, round_id=made.first_round),
        last_round=RoundName(date=made.day, round_id=made.last_round),
        previous_day=before,
        reverified=Reverified(fraction=0.0, records=0),
    ).signed(VALIDATOR)


def _attempt(day: date) -> str:
    return f"{day.toordinal():016x}"


def _folder(day: date) -> str:
    return keys.attempt_folder(day, _attempt(day))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, clock_time(), UTC)


@contextmanager
def _unsynced() -> Iterator[None]:
    """Leave writes to the kernel, as nothing is lost with such a corpus."""
    plain = os.fsync
    os.fsync = lambda fd: None
    try:
        yield
    finally:
        os.fsync = plain
