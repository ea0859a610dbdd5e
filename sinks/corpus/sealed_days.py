"""Sealed days in the log: how an entry names a day's manifest, and where the manifest's bytes lie."""

import hashlib
from datetime import date

from perturb.schemas.errors import CorpusError
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.manifest import Manifest, parse_manifest
from perturb.sinks.log.entry import Entry, LogRecord, NewEntry, Totals
from perturb.sinks.log.log import Log
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing, Store


def day_entry(manifest: Manifest) -> NewEntry:
    """Return the entry of a sealed day. Its detail has what proves a record without the manifest."""
    return NewEntry(
        kind="sealed-day",
        key=keys.manifest_key(manifest.day),
        sha256=manifest.sha256,
        detail={
            "day": manifest.day.isoformat(),
            "attempt": manifest.attempt,
            "records": manifest.records,
            "merkle_root": manifest.merkle_root,
            "last_round": "" if manifest.last_round is None else manifest.last_round.round_id,
        },
        adds=Totals(
            days=1,
            records=manifest.records,
            images=manifest.images,
            bytes=manifest.size,
        ),
    )


def entry_day(entry: Entry) -> date:
    """Return the day that an entry seals. Raises CorpusError when it states none."""
    try:
        return date.fromisoformat(str(entry.detail.get("day")))
    except ValueError as error:
        raise CorpusError(f"entry {entry.sequence} of the log states no day ({entry.detail!r})") from error


def logged_manifest(store: Store, record: LogRecord) -> Manifest:
    """Return the manifest that an entry names: the published one or, where its sealer died before that or somebody
    replaced it, the one beside the day's files.

    Raises CorpusError when both are missing or another one.
    """
    entry, other = record.entry, ""
    draft = keys.attempt_folder(entry_day(entry), str(entry.detail.get("attempt"))) + keys.MANIFEST
    for key in (entry.key, draft):
        try:
            data = store.get(key)
        except ObjectMissing:
            continue
        except ObjectCorrupt:
            data = b""
        if hashlib.sha256(data).hexdigest() == entry.sha256:
            return parse_manifest(data, key)
        other = other or key
    if other:
        raise CorpusError(f"{other} differs from its entry {record.where}; restore it from a copy")
    raise CorpusError(f"{entry.key} was sealed ({record.where}), but its manifest is missing; restore it from a copy")


def sealed_record(log: Log, last: LogRecord, day: date) -> LogRecord | None:
    """Return the entry of a sealed day up to `last`, itself one, or None. It reads about log2 of the log's length."""
    found = first_sealed_since(log, last, day)
    return found if found is not None and entry_day(found.entry) == day else None


def first_sealed_since(log: Log, last: LogRecord, day: date) -> LogRecord | None:
    """Return the first entry of a sealed day that is `day` or later, up to `last`, itself one; None if there is none.

    It reads about log2 of the log's length. Days are sealed in ascending order.
    """
    first, end, best = 0, last.entry.sequence, None
    while first <= end:
        middle = (first + end) // 2
        found = last if middle == last.entry.sequence else log.newest_before(log.record(middle), "sealed-day")
        if found is None or entry_day(found.entry) < day:
            first = middle + 1
        else:
            best, end = found, found.entry.sequence - 1
    return best


def newest_sealed(log: Log, newest: LogRecord | None, trust: Trust) -> Manifest | None:
    """Return the manifest of the newest sealed day up to entry `newest`, or None before the first.

    Raises CorpusError when nobody of `trust` signed it: the signature of the next day would cover it too.
    """
    record = log.newest_before(newest, "sealed-day")
    if record is None:
        return None
    manifest = logged_manifest(log.store, record)
    if refusal := manifest.refusal(trust):
        raise CorpusError(
            f"{record.where} seals {manifest.day}, but {refusal}; list the signer in "
            "subnet.trusted_validators if it is one of yours, otherwise restore the log from a copy"
        )
    return manifest
