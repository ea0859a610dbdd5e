"""Audits the tables beside the metadata of a sealed day: each must follow from the rows."""

import math
from collections.abc import Iterator

from perturb.schemas.errors import CorpusError
from perturb.schemas.record import Row
from perturb.sinks.corpus import keys
from perturb.sinks.corpus.corpus import Corpus
from perturb.sinks.corpus.day_tables import read_day_table, read_state
from perturb.sinks.corpus.day_writer import DayTotals
from perturb.sinks.corpus.manifest import Manifest
from perturb.sinks.corpus.miner_state import advance, state_fault
from perturb.sinks.stores.base import ObjectCorrupt, ObjectMissing


def table_faults(corpus: Corpus, manifest: Manifest, totals: DayTotals) -> Iterator[tuple[str, str]]:
    """Yield the faults of a day's tables as `(key, sentence)`. `totals` are counted from its rows.

    The state of miners is computed again from that of the day before, whose own audit says whether it can be believed.
    Raises StoreError when the store cannot be read.
    """
    checks = (_claims, _models, _statistics, _miners)
    for kind, check in zip(("claims", "models", "statistics", "miners"), checks, strict=True):
        named = manifest.file(kind)  # type: ignore[arg-type]
        where = named[0].key if named else keys.manifest_key(manifest.day)
        try:
            what = check(corpus, manifest, totals)
        except (CorpusError, ObjectCorrupt, ObjectMissing) as error:
            what = str(error)
        if what:
            yield where, what
    for day in sorted(totals.made_on - {manifest.day}):
        key = keys.late_key(day, manifest.day)
        if corpus.store.head(key) is None:
            yield key, f"it is missing, so that records of {day} are not found; create it as an empty object"


def _claims(corpus: Corpus, manifest: Manifest, totals: DayTotals) -> str | None:
    table = read_day_table(corpus.store, manifest, "claims")
    rounds = sorted(zip(table["round_id"].to_pylist(), table["date"].to_pylist(), strict=True))
    ends = [
        None if name is None else (name.round_id, name.date) for name in (manifest.first_round, manifest.last_round)
    ]
    if len(set(rounds)) != manifest.rounds or table.num_rows != manifest.rounds:
        return f"it has {table.num_rows} rounds, the manifest states {manifest.rounds}"
    if ends != [rounds[0], rounds[-1]] if rounds else ends != [None, None]:
        return "its first and last round are not those that the manifest states"
    if set(table["round_id"].to_pylist()) != totals.rounds:
        return "its rounds are not those of the rows"
    if (claimed := sum(table["records"].to_pylist())) != len(totals.leaves):
        return f"its rounds have {claimed} records, the day has {len(totals.leaves)}"
    if any(day > manifest.day for _, day in rounds):
        return "it has rounds of partitions after the sealed day"
    return None


def _models(corpus: Corpus, manifest: Manifest, totals: DayTotals) -> str | None:
    stated, counted = read_day_table(corpus.store, manifest, "models").to_pylist(), totals.models()
    return (
        None if stated == counted else f"it states {_short(stated, counted)}; the rows have {_short(counted, stated)}"
    )


def _short(rows: list[Row], other: list[Row]) -> str:
    differ = [" ".join(filter(None, row.values())) for row in rows if row not in other]
    return ", ".join(differ[:3]) or "nothing else"


def _statistics(corpus: Corpus, manifest: Manifest, totals: DayTotals) -> str | None:
    stated = {row["column"]: row for row in read_day_table(corpus.store, manifest, "statistics").to_pylist()}
    counted = {row["column"]: row for row in totals.statistics()}
    for column in sorted({*stated, *counted}):
        one, other = stated.get(column), counted.get(column)
        if (
            one is None
            or other is None
            or not all(
                math.isclose(one[part], other[part], rel_tol=1e-9, abs_tol=1e-12)
                for part in ("count", "min", "mean", "max")
            )
        ):
            return f"its statistics of {column} differ from those of the rows"
    return None


def _miners(corpus: Corpus, manifest: Manifest, totals: DayTotals) -> str | None:
    before = corpus.day_before(manifest)
    earlier = {} if before is None else read_state(corpus.store, before)
    expected = advance(earlier, totals.asked, day=manifest.day)
    fault = state_fault(read_state(corpus.store, manifest), expected)
    return (
        f"the state of miners does not follow from {manifest.previous_day or 'no day'} and the records: {fault}"
        if fault
        else None
    )
