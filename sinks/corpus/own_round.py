"""Reads a committed round if a trusted validator signed it for its place.

Everybody who can write to a store can put any bytes where a round belongs, a trusted validator's name among them. What
that validator did not sign is left out and named; it is never an error, so that it keeps no day from being sealed and
no weights from being set.
"""

from perturb.schemas.errors import CorpusError
from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.stores.base import ObjectCorrupt


def read_own_round(corpus: Corpus, ref: RoundRef, trust: Trust) -> StoredRound | str:
    """Return a round's metadata, or why it does not count as a round of a validator of `trust` in this place.

    The rows that are returned are those that were signed, except for their pointers into tars, which name the round's
    own folder. A copy of the round in another partition may return too. Raises ObjectMissing and other StoreErrors when
    the store cannot be read.
    """
    try:
        stored = corpus.read_round(ref)
        # Signature and Merkle root before anything else: until then rows are somebody's.
        if refusal := stored.statement.refusal(trust):
            return refusal
        if faults := stored.row_faults():
            return faults[0]
    except (CorpusError, ObjectCorrupt):
        return "it cannot be read, so that no signature is known"
    if stored.statement.round_id != ref.round_id:
        return f"it states that it is round {stored.statement.round_id}"
    if speaker := stored.speaker_fault():
        return speaker
    folder = keys.round_folder(ref.day, ref.round_id)
    if stored.table["original_shard"].unique().to_pylist() not in ([], [folder + "original.tar"]):
        return "its rows point into another folder"
    return stored
