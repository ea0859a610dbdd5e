"""Results of the model track on a store: `model-track/{time}-{sha256}.json`, and the log that says which count."""

import hashlib
from datetime import datetime
from itertools import islice
from typing import Literal

from perturb.schemas.errors import CorpusError
from perturb.schemas.model_track import TrackResult
from perturb.schemas.signature import Signer
from perturb.schemas.trust import Trust
from perturb.sinks.formats.version import FORMAT, Document, parse_document
from perturb.sinks.log.entry import Kind, LogRecord, NewEntry
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectMissing, Store

RESULTS = "model-track/"
_KIND: Kind = "model-track"
# Results are made once a day, and paid for a few days.
_LOOKED_THROUGH = 32


class TrackDocument(Document):
    """A result as it is stored."""

    kind: Literal["model-track"] = "model-track"
    result: TrackResult


def newest_result(store: Store, trust: Trust) -> TrackResult | None:
    """Return the newest result that a validator of `trust` entered in the log of `store`, or None.

    Entries of others are passed over, so that whoever can write to the store stops no payment by adding one. Raises
    CorpusError where the result is missing or another one, StoreError when the store cannot be read.
    """
    log, newest = Log(store), Log(store, trust=trust).newest_that_counts()
    entries = islice(log.back(newest, _KIND), _LOOKED_THROUGH)
    record = next((one for one in entries if one.head.refusal(trust) is None), None)
    if record is None:
        return None
    key = record.entry.key
    try:
        data = store.get(key)
    except ObjectMissing as error:
        raise CorpusError(f"{key} is missing, which {record.where} names; restore it from a copy") from error
    if hashlib.sha256(data).hexdigest() != record.entry.sha256:
        raise CorpusError(f"{key} is not the document of {record.where}; restore it from a copy")
    return parse_document(TrackDocument, data, key).result


def append_result(log: Log, result: TrackResult, *, signer: Signer | None, at: datetime) -> LogRecord:
    """Keep a result, and enter it in the log at `at`, which is now: measuring began up to hours before."""
    data = TrackDocument(format=FORMAT, result=result).to_json()
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{RESULTS}{result.measured_at:%Y%m%dT%H%M%SZ}-{sha256[:16]}.json"
    log.store.put_new(key, data)
    detail: dict[str, str | int] = {"candidates": len(result.candidates), "winner": result.winner or ""}
    new = NewEntry(kind=_KIND, key=key, sha256=sha256, detail=detail)
    return log.append(new, signer=signer, at=at)
