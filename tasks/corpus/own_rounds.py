"""Reads the rounds that a seal takes in: those of trusted validators, each with the tars that its rows point into."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from perturb.schemas.trust import Trust
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus, RoundRef
from perturb.sinks.corpus.manifest import Kind
from perturb.sinks.corpus.own_round import read_own_round
from perturb.sinks.corpus.pointers import check_pointers
from perturb.sinks.corpus.rounds import StoredRound
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing

log = logging.getLogger(__name__)
ADVICE = (
    "list the signer in subnet.trusted_validators if it is one of yours; restore what is damaged, which `perturb "
    "audit` names; delete what is a stranger's, and find out who can write to the store"
)
# How many rounds are read while one is written.
_DEPTH = 2


@dataclass(frozen=True)
class LoadedRound:
    """A round's metadata, and its tars as bytes."""

    stored: StoredRound
    original: bytes
    perturbed: bytes | None


@dataclass
class OwnRounds:
    """The rounds of trusted validators among `refs`. Iterating reads them, in their order.

    `left` counts the others by the reason why they are not taken in. It is complete when the iteration has ended.
    """

    corpus: Corpus
    refs: Sequence[RoundRef]
    trust: Trust
    left: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[LoadedRound]:
        """Yield rounds. A thread reads and checks the next ones while the caller writes."""
        seen: set[str] = set()
        types: dict[str, pa.DataType] = {}
        with ThreadPoolExecutor(1) as pool:
            pending = [pool.submit(load_round, self.corpus, ref, self.trust) for ref in self.refs[:_DEPTH]]
            try:
                for place, ref in enumerate(self.refs):
                    loaded = pending.pop(0).result()
                    if place + _DEPTH < len(self.refs):
                        pending.append(pool.submit(load_round, self.corpus, self.refs[place + _DEPTH], self.trust))
                    if isinstance(loaded, LoadedRound) and ref.round_id in seen:
                        loaded = "it is in two partitions"
                    if isinstance(loaded, LoadedRound):
                        loaded = _of_other_types(loaded, types) or loaded
                    if isinstance(loaded, str):
                        self.left[loaded] += 1
                        log.warning("round %s (%s) is not sealed: %s; %s", ref.round_id, ref.day, loaded, ADVICE)
                        continue
                    seen.add(ref.round_id)
                    yield loaded
            finally:
                for future in pending:
                    future.cancel()


def _of_other_types(loaded: LoadedRound, types: dict[str, pa.DataType]) -> str | None:
    """Return why a round cannot be in one table with those before it, whose columns have `types`; add its own to them.

    A signature covers values, not types: 1 and 1.0 are one value.
    """
    columns = {field.name: field.type for field in loaded.stored.table.schema}
    for name, type in columns.items():
        if types.get(name, type) != type:
            return f"its column {name} is of type {type}, in rounds before it of type {types[name]}"
    types |= columns
    return None


def load_round(corpus: Corpus, ref: RoundRef, trust: Trust) -> LoadedRound | str:
    """Return a round with its tars, or why it is not to be taken in.

    No validator of `trust` signed it for this place, or its tars are not those that were signed. Pointers and tars are
    not part of what is signed, so that a copy of a signed round may have others: they are no error either.
    """
    stored = read_own_round(corpus, ref, trust)
    if isinstance(stored, str):
        return stored
    folder = keys.round_folder(ref.day, ref.round_id)
    tars: dict[Kind, bytes] = {}
    for entry in stored.statement.files:
        try:
            tars[entry.kind] = corpus.store.get(folder + entry.key, sha256=entry.sha256)
        except (ObjectMissing, ObjectCorrupt) as error:
            return f"it is damaged: {error}"
        if faults := check_pointers(stored.rows, folder + entry.key, entry, tars[entry.kind]):
            return f"it is damaged: {faults[0]}"
    return LoadedRound(stored, tars["original"], tars.get("perturbed"))
