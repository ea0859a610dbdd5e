"""The history that weights may be computed from: what trusted validators signed, read from the newest day back."""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cached_property
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import record_schema
from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import HORIZON, Corpus, RoundRef
from perturb.sinks.corpus.day_tables import read_state
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.miner_state import MinerState
from perturb.sinks.corpus.own_round import read_own_rounds
from perturb.sinks.corpus.verified import verified_metadata
from perturb.tasks.weights.history import COLUMNS
from perturb.tasks.weights.kept_rounds import KeptRounds

_READERS = 8
# So many rounds a reader takes at once.
_AT_ONCE = 32


class OwnHistory:
    """The records that a validator of `trust` signed, as `History`. `left` counts what was left out, by the reason.

    The newest sealed day that such a validator signed stands for all days before it: its signature covers the state of
    miners, which covers them. Sealed days are compared with the digests of their signed manifests, live rounds with the
    Merkle roots of their signed statements. A sealed day never changes, so its columns are read from the store once and
    kept below `cache`, in a file named by the manifest's digest, until a later run no longer needs them. The same holds
    for live rounds (`KeptRounds`).

    Raises CorpusError for a day or round of a trusted validator that is not what was signed, and where `HORIZON`
    days are of others; StoreError when the store cannot be read.
    """

    def __init__(self, corpus: Corpus, trust: Trust, *, cache: Path):
        self._corpus, self._trust, self._cache = corpus, trust, cache
        self._used: set[Path] = set()
        self.left: Counter[str] = Counter()

    @cached_property
    def _newest(self) -> Manifest | None:
        for place, manifest in enumerate(self._corpus.days_back(self._trust, left=self.left)):
            if (refusal := manifest.refusal(self._trust)) is None:
                return manifest
            if place == HORIZON:
                raise CorpusError(f"none of the last {HORIZON} sealed days counts: {refusal}; run `perturb audit`")
            self.left[f"sealed day: {refusal}"] += 1
        return None

    @cached_property
    def state(self) -> MinerState:
        """The state of miners at the end of the newest day that counts."""
        return {} if self._newest is None else read_state(self._corpus.store, self._newest)

    @cached_property
    def live(self) -> pa.Table:
        """The records of live rounds that count."""
        refs = self._corpus.live_rounds(self._trust)
        schema = pa.schema([record_schema().field(name) for name in COLUMNS])
        kept = KeptRounds(self._cache, self._trust, schema, self._corpus.store.url)
        self._used.add(kept.path)
        known = kept.rounds() & set(refs)
        new = [ref for ref in refs if ref not in known]
        some = [new[at : at + _AT_ONCE] for at in range(0, len(new), _AT_ONCE)]
        with ThreadPoolExecutor(_READERS) as pool:
            found = dict(zip(new, chain.from_iterable(pool.map(self._rounds, some)), strict=True))
        tables = {ref: table for ref, table in found.items() if isinstance(table, pa.Table)}
        if new or kept.rounds() - known:
            kept.keep(known, tables)
        seen: set[str] = set()
        for ref in refs:
            if (ref in known or ref in tables) and ref.round_id in seen:
                # A copy of a genuine round would pay its miners twice.
                found[ref] = "it is in two partitions"
                known.discard(ref)
                tables.pop(ref, None)
            elif ref in known or ref in tables:
                seen.add(ref.round_id)
        self.left.update(f"round: {refusal}" for refusal in found.values() if isinstance(refusal, str))
        return pa.concat_tables([pa.Table.from_batches([], schema), kept.rows(known), *tables.values()])

    def day(self, day: date) -> tuple[pa.Table, MinerState]:
        """Return the records of a sealed day, and the state of miners at the end of the day before."""
        manifest = self._corpus.manifest(day)
        if manifest is None:
            raise CorpusError(f"{day} is not sealed, though the state of miners names it; run `perturb audit`")
        if refusal := manifest.refusal(self._trust):
            raise CorpusError(f"{day} is needed for the weights, but {refusal}; run `perturb audit`")
        before = self._corpus.day_before(manifest)
        return self._sealed(manifest), {} if before is None else read_state(self._corpus.store, before)

    def forget_unused(self) -> None:
        """Remove the kept files of days that this object did not read."""
        for path in self._cache.glob("*.parquet"):
            if path not in self._used:
                path.unlink(missing_ok=True)

    def _rounds(self, refs: Sequence[RoundRef]) -> list[pa.Table | str]:
        """Return each round's rows, or why they do not count."""
        rounds = read_own_rounds(self._corpus, refs, self._trust)
        return [stored if isinstance(stored, str) else _select(stored.table, COLUMNS) for stored in rounds]

    def _sealed(self, manifest: Manifest) -> pa.Table:
        chosen = hashlib.sha256(" ".join(COLUMNS).encode()).hexdigest()[:8]
        kept = self._cache / f"{manifest.sha256}-{chosen}.parquet"
        self._used.add(kept)
        try:
            return pq.read_table(kept)
        except (FileNotFoundError, pa.ArrowInvalid):
            # It was never read, or its file was not finished.
            pass
        with verified_metadata(self._corpus.store, manifest) as records:
            there = [name for name in COLUMNS if name in records.schema.names]
            table = _select(records.to_table(columns=there), COLUMNS)
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._cache)
        os.close(handle)
        pq.write_table(table, name, compression="zstd")
        Path(name).replace(kept)
        return table


def _select(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return `columns` with the types of a record; a column that an older program did not write is null."""
    known, there = record_schema(), set(table.schema.names)
    fields = [known.field(name) for name in columns]
    arrays = [table[one.name] if one.name in there else pa.nulls(table.num_rows, one.type) for one in fields]
    return pa.table(arrays, schema=pa.schema(fields))
