"""Reads a committed round if a trusted validator signed it for its place.

Everybody who can write to a store can put any bytes where a round belongs, a trusted validator's name among them. What
that validator did not sign is left out and named; it is never an error, so that it keeps no day from being sealed and
no weights from being set.
"""

from collections.abc import Sequence

import pyarrow.compute as pc

from perturb.schemas.errors import CorpusError
from perturb.schemas.outcome import Outcome
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import HORIZON, Corpus, RoundRef
from perturb.sinks.corpus.rounds import RoundRefused, StoredRound, share_leaves
from perturb.sinks.stores.base import ObjectCorrupt

_UNREADABLE = "it cannot be read, so that no signature is known"


def read_own_round(corpus: Corpus, ref: RoundRef, trust: Trust) -> StoredRound | str:
    """Return a round's metadata, or why it does not count as a round of a validator of `trust` in this place.

    The rows that are returned are those that were signed, except for their pointers into tars, which name the round's
    own folder. A copy of a live round in another partition may return too. Raises ObjectMissing and other StoreErrors
    where the store cannot be read.
    """
    return read_own_rounds(corpus, [ref], trust)[0]


def read_own_rounds(corpus: Corpus, refs: Sequence[RoundRef], trust: Trust) -> list[StoredRound | str]:
    """Return what `read_own_round` returns for each of several rounds, faster where they are small."""
    found = [_signed(corpus, ref, trust) for ref in refs]
    share_leaves([stored for stored in found if isinstance(stored, StoredRound)])
    return [
        stored if isinstance(stored, str) else _refusal(corpus, ref, stored, trust) or stored
        for ref, stored in zip(refs, found, strict=True)
    ]


def _signed(corpus: Corpus, ref: RoundRef, trust: Trust) -> StoredRound | str:
    """Return a round whose statement a validator of `trust` signed, or why there is none. Its rows are somebody's."""
    try:
        return corpus.read_round(ref, trust)
    except RoundRefused as error:
        return str(error)
    except (CorpusError, ObjectCorrupt):
        return _UNREADABLE


def _refusal(corpus: Corpus, ref: RoundRef, stored: StoredRound, trust: Trust) -> str | None:
    """Return why a round with a signed statement does not count, or None."""
    try:
        # The Merkle root before anything else: until then rows are somebody's.
        if faults := stored.row_faults():
            return faults[0]
    except CorpusError:
        return _UNREADABLE
    if stored.statement.round_id != ref.round_id:
        return f"it states that it is round {stored.statement.round_id}"
    if speaker := stored.speaker_fault():
        return speaker
    folder = keys.round_folder(ref.day, ref.round_id)
    if stored.table["original_shard"].unique().to_pylist() not in ([], [folder + "original.tar"]):
        return "its rows point into another folder"
    accepted = pc.equal(stored.table["outcome"], str(Outcome.ACCEPTED))
    if not accepted.equals(pc.is_valid(stored.table["perturbed_shard"])):
        return "its rows do not point to an image where they are accepted, and there only"
    return _sealed_before(corpus, ref, stored, trust)


def _sealed_before(corpus: Corpus, ref: RoundRef, stored: StoredRound, trust: Trust) -> str | None:
    """Return why a round that was made before the day of its partition is a copy of a sealed one, or None.

    The partition is not signed, and whether a round is live was asked of the days since the oldest partition. A sealed
    day takes in rounds of its own day and of earlier ones.
    """
    made = pc.min(stored.table["created_at"]).as_py()
    if made is None or made.date() >= ref.day:
        return None
    days = corpus.newest_days(made.date(), trust)
    for manifest in days:
        if ref.round_id in corpus.claims(manifest):
            return f"it is a copy: {manifest.day} has it"
    if len(days) >= HORIZON and made.date() < days[0].day:
        return f"it was made on {made.date()}, before the {HORIZON} newest sealed days, which may have it"
    return None
