"""Responses on their way to the worker that verifies them: a slice of a round as one temporary object.

    key, digest = stage(store, part, number=0)          # the round's own process
    part = read_staged(store, key, sha256=digest)       # a worker, anywhere

Staged slices are not part of the corpus. What a killed run leaves is garbage after a day.
"""

import hashlib
from dataclasses import asdict, dataclass
from datetime import datetime

import pyarrow as pa
from pydantic import TypeAdapter

from perturb.schemas.challenge import Challenge, Origin, Task
from perturb.schemas.errors import CorpusError
from perturb.schemas.response import Response
from perturb.schemas.settings import ClassifierSettings
from perturb.sinks.corpus import keys
from perturb.sinks.stores.base import Store

_SCHEMA = pa.schema(
    [
        ("miner_uid", pa.int64()),
        ("miner_hotkey", pa.string()),
        ("response_ms", pa.float64()),
        # The responses of a large round may exceed 2 GiB, the limit of 32-bit offsets.
        ("body", pa.large_binary()),
        ("body_sha256", pa.string()),
        ("nonce", pa.string()),
        ("signature", pa.string()),
        ("failure", pa.string()),
        ("detail", pa.string()),
    ]
)
_RESPONSES = TypeAdapter(tuple[Response, ...])
_MOMENT = TypeAdapter(datetime)


@dataclass(frozen=True)
class Slice:
    """Some of a round's responses with its challenge and the classifier settings of the round's process."""

    challenge: Challenge
    responses: tuple[Response, ...]
    classifier: ClassifierSettings


def stage(store: Store, part: Slice, *, number: int) -> tuple[str, str]:
    """Write slice `number` of its round; return its key and its sha256. The same slice gives the same bytes.

    Raises CorpusError when the key is taken by other bytes, and StoreError when the store fails.
    """
    data = _encode(part)
    key = keys.pending_key(part.challenge.round_id, number)
    if not store.put_new(key, data):
        raise CorpusError(f"{key} already exists with other bytes; produce the round again under a new ID")
    return key, hashlib.sha256(data).hexdigest()


def read_staged(store: Store, key: str, *, sha256: str) -> Slice:
    """Return a staged slice. Raises ObjectMissing, and ObjectCorrupt when its bytes do not have the digest `sha256`."""
    with pa.ipc.open_stream(pa.BufferReader(store.get(key, sha256=sha256))) as file:
        table = file.read_all()
    found = table.schema.metadata
    challenge = Challenge(
        round_id=found[b"round_id"].decode(),
        created_at=_MOMENT.validate_json(found[b"created_at"]),
        task=Task.model_validate_json(found[b"task"]),
        origin=Origin.model_validate_json(found[b"origin"]),
        png=found[b"original"],
    )
    responses = _RESPONSES.validate_python(table.to_pylist())
    return Slice(challenge, responses, ClassifierSettings.model_validate_json(found[b"classifier"]))


def _encode(part: Slice) -> memoryview:
    challenge = part.challenge
    header = {
        "round_id": challenge.round_id,
        "created_at": _MOMENT.dump_json(challenge.created_at),
        "task": challenge.task.model_dump_json(),
        "origin": challenge.origin.model_dump_json(),
        "original": challenge.png,
        "classifier": part.classifier.model_dump_json(),
    }
    table = pa.Table.from_pylist(
        [asdict(response) for response in part.responses], schema=_SCHEMA.with_metadata(header)
    )
    sink = pa.BufferOutputStream()
    # A stream, because the file format would hold the schema, and with it the original, at the beginning and the end.
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())
