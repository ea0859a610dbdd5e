"""Weights from the running state of miners equal those from all records, whatever happened."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError
from perturb.schemas.neuron import Neuron
from perturb.schemas.record import record_schema
from perturb.sinks.corpus.miner_state import AskedRounds, MinerState, advance, parse_state, state_table
from perturb.tasks.weights.emission import plan_weights
from perturb.tasks.weights.history import COLUMNS, MinerHistory, miner_histories

FIRST = date(2026, 1, 1)
UIDS, HOTKEYS, NETUIDS = (0, 1, 2), ("a", "b"), (26, 27)
Rows = list[dict[str, Any]]

ANSWERS = st.sampled_from(["accepted", "accepted", "no_flip", "timeout", "not_asked"])
# A round: when it was made in steps since the first day, so that late ones may come before, and who was asked.
ROUNDS = st.tuples(
    st.integers(0, 60),
    st.lists(
        st.tuples(
            st.sampled_from(NETUIDS), st.sampled_from(UIDS), st.sampled_from(HOTKEYS), ANSWERS, st.integers(0, 9)
        ),
        max_size=5,
        unique_by=lambda asked: asked[:3],
    ),
)
# Days, each with its rounds; an empty one is not sealed. The last are live rounds.
HISTORIES = st.lists(st.lists(ROUNDS, max_size=4), min_size=1, max_size=8)


def rows_of(rounds: Sequence[tuple[int, Sequence[tuple[int, int, str, str, int]]]], day: int) -> Rows:
    return [
        {
            "round_id": f"{step:04d}-{day:03d}-{place}",
            "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=step),
            "netuid": netuid,
            "miner_uid": uid,
            "miner_hotkey": hotkey,
            "outcome": outcome,
            "body_sha256": None if outcome in ("timeout", "not_asked") else "d" * 64,
            "score": score / 9 if outcome == "accepted" else 0.0,
        }
        for place, (step, asked) in enumerate(rounds)
        for netuid, uid, hotkey, outcome, score in asked
    ]


def as_table(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([record_schema().field(name) for name in COLUMNS]))


class Days:
    """A history of sealed days in memory, whose states were computed one day after the other. Counts what is read."""

    def __init__(self, days: Sequence[Rows], live: Rows):
        self.live = as_table(live)
        self.read: list[date] = []
        self._days: dict[date, Rows] = {}
        self._before: dict[date, MinerState] = {}
        self.state: MinerState = {}
        for place, rows in enumerate(days):
            if rows:
                day = FIRST + timedelta(days=place)
                self._days[day], self._before[day] = rows, self.state
                asked = AskedRounds()
                asked.add(as_table(rows))
                # Through its table, as it is stored.
                self.state = parse_state(state_table(advance(self.state, asked, day=day)), "x")

    def day(self, day: date) -> tuple[pa.Table, MinerState]:
        self.read.append(day)
        return as_table(self._days[day]), self._before[day]


def from_all_records(days: Sequence[Rows], neurons: Sequence[Neuron], netuid: int, window: int) -> list[MinerHistory]:
    """The rules of docs, followed record by record over everything that there is."""
    rounds: list[Rows] = []
    for rows in days:
        ids = sorted({row["round_id"] for row in rows})
        rounds += [[row for row in rows if row["round_id"] == one and row["netuid"] == netuid] for one in ids]
    found = []
    for neuron in neurons:
        own: list[tuple[Rows, bool]] = []
        for rows in rounds:
            asked = [row for row in rows if row["miner_uid"] == neuron.uid and row["outcome"] != "not_asked"]
            if any(row["miner_hotkey"] != neuron.hotkey for row in asked):
                own = []
            elif asked:
                own.append((asked, any(row["outcome"] == "accepted" for row in rows)))
        scores = [max(row["score"] for row in asked) for asked, counts in own if counts][-window:]
        found.append(
            MinerHistory(
                uid=neuron.uid,
                hotkey=neuron.hotkey,
                asked=len(own),
                processed=sum(any(row["body_sha256"] for row in asked) for asked, _ in own),
                accepted=sum(any(row["outcome"] == "accepted" for row in asked) for asked, _ in own),
                counted=len(scores),
                average=sum(scores) / len(scores) if scores else 0.0,
            )
        )
    return found


@settings(max_examples=150, deadline=None)
@given(HISTORIES, st.tuples(*(st.sampled_from(HOTKEYS) for _ in UIDS)), st.integers(1, 4), st.booleans())
def test_weights_from_the_state_equal_weights_from_all_records(
    history: list[Any], hotkeys: Sequence[str], window: int, live: bool
) -> None:
    days = [rows_of(rounds, day) for day, rounds in enumerate(history)]
    sealed, last = (days[:-1], days[-1]) if live else (days, [])
    neurons = [Neuron(uid=uid, hotkey=hotkey, endpoint="8.8.8.8:80") for uid, hotkey in zip(UIDS, hotkeys, strict=True)]
    source = Days(sealed, last + last)
    expected = from_all_records([*sealed, last], neurons, 26, window)
    found = miner_histories(source, neurons, netuid=26, window=window)
    assert [(one.asked, one.processed, one.accepted, one.counted) for one in found] == [
        (one.asked, one.processed, one.accepted, one.counted) for one in expected
    ]
    assert [one.average for one in found] == pytest.approx([one.average for one in expected])
    assert len(set(source.read)) == len(source.read), "a day is read once"
    plan = plan_weights(source, neurons, netuid=26, window=window, min_processed=1)
    eligible = [one.uid for one in expected if one.processed > 1 and one.average > 0]
    assert sorted(plan.weights) == eligible


def test_only_the_days_that_the_window_needs_are_read() -> None:
    """Years of a busy miner, and one that was last asked long ago: the days between are not read."""
    busy = [(0, [(26, 0, "a", "accepted", 5)])] * 3
    both = [(0, [(26, 0, "a", "accepted", 5), (26, 1, "b", "accepted", 9)])] * 3
    source = Days([rows_of(both if day in (40, 43) else busy, day) for day in range(700)], [])
    neurons = [Neuron(uid=uid, hotkey=hotkey, endpoint="8.8.8.8:80") for uid, hotkey in enumerate("ab")]
    found = miner_histories(source, neurons, netuid=26, window=5)
    assert [(one.asked, one.counted) for one in found] == [(2100, 5), (6, 5)]
    assert source.read == [FIRST + timedelta(days=day) for day in (699, 698, 43, 40)]


def test_a_state_that_names_challenges_that_no_day_has_is_refused() -> None:
    rows = rows_of([(0, [(26, 0, "a", "accepted", 5)])], 0)
    source = Days([rows, rows], [])
    asked = AskedRounds()
    for day in range(3):
        asked.add(as_table(rows_of([(0, [(26, 0, "a", "accepted", 5)])], day)))
    source.state = advance({}, asked, day=FIRST + timedelta(days=1))
    neurons = [Neuron(uid=0, hotkey="a", endpoint="8.8.8.8:80")]
    with pytest.raises(CorpusError, match="uid 0 has challenges that count before 2026-01-01, and no day has them"):
        miner_histories(source, neurons, netuid=26)
