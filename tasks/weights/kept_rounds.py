"""Live rounds that an earlier run of `weights` compared with their signatures, so that each is compared once."""

import hashlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from perturb.schemas.trust import Trust
from perturb.sinks.corpus.corpus import RoundRef

_DAY, _ROUND = "kept_day", "kept_round"


class KeptRounds:
    """The rows of live rounds in one file below `folder`, for one set of trusted validators and one schema.

    A committed round never changes, so that what was signed once stays so. A file that cannot be read counts as empty.
    """

    def __init__(self, folder: Path, trust: Trust, columns: pa.Schema, store: str):
        named = " ".join([store, *sorted(trust.hotkeys or ("anyone",)), str(trust.allow_unsigned), *columns.names])
        self.path = folder / f"live-{hashlib.sha256(named.encode()).hexdigest()[:16]}.parquet"
        self._schema = pa.schema([(_DAY, pa.date32()), (_ROUND, pa.string()), *columns])
        try:
            table = pq.read_table(self.path)
            self._table = table if table.schema.equals(self._schema) else pa.Table.from_batches([], self._schema)
        except (FileNotFoundError, pa.ArrowInvalid):
            self._table = pa.Table.from_batches([], self._schema)

    def rounds(self) -> set[RoundRef]:
        """Return the rounds whose rows are kept."""
        places = self._table.select([_DAY, _ROUND]).group_by([_DAY, _ROUND]).aggregate([])
        return {
            RoundRef(day, name)
            for day, name in zip(*(places[name].to_pylist() for name in (_DAY, _ROUND)), strict=True)
        }

    def rows(self, among: Collection[RoundRef]) -> pa.Table:
        """Return the kept rows of these rounds, with the schema's columns."""
        return self._of(among).drop_columns([_DAY, _ROUND])

    def keep(self, among: Collection[RoundRef], more: dict[RoundRef, pa.Table]) -> None:
        """Replace the file by the kept rows of the rounds `among`, and those of `more`."""
        tables = [self._of(among)]
        for ref, table in more.items():
            days = pa.array([ref.day] * table.num_rows, pa.date32())
            names = pa.array([ref.round_id] * table.num_rows, pa.string())
            tables.append(pa.table([days, names, *table.columns], self._schema))
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent)
        os.close(handle)
        pq.write_table(pa.concat_tables(tables), name, compression="zstd")
        Path(name).replace(self.path)

    def _of(self, among: Collection[RoundRef]) -> pa.Table:
        if not self._table.num_rows:
            return self._table
        # A round's ID is in one partition, but for copies that somebody made; these are told apart by their days.
        wanted = pa.array([f"{ref.day} {ref.round_id}" for ref in among], pa.string())
        places = pc.binary_join_element_wise(pc.cast(self._table[_DAY], pa.string()), self._table[_ROUND], " ")
        return self._table.filter(pc.is_in(places, value_set=wanted))
