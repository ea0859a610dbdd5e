"""From records to weights: who is known for what, who earns, and how much."""

import random
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturb.schemas.errors import CorpusError, SettingsError
from perturb.schemas.neuron import Neuron
from perturb.schemas.record import record_schema
from perturb.tasks.weights.emission import EMISSION_POLICIES, WeightsPlan, emission, plan_weights, submit_weights
from perturb.tasks.weights.history import WholeHistory, miner_histories

NETUID = 26


def row(
    number: int, uid: int, outcome: str = "accepted", *, score: float = 0.5, hotkey: str = "", netuid: int = NETUID
):
    """What the history reads of a record; every other column is null."""
    wire_failure = outcome in {"timeout", "unreachable", "not_asked"}
    return dict.fromkeys(record_schema().names) | {
        "round_id": f"20260101T{number:012d}Z-00000000",
        "task_id": f"{number:032x}",
        "netuid": netuid,
        "miner_uid": uid,
        "miner_hotkey": hotkey or f"hotkey-{uid}",
        "outcome": outcome,
        "body_sha256": None if wire_failure else "d" * 64,
        "score": score if outcome == "accepted" else 0.0,
    }


def table(rows: list[dict[str, object]]) -> pa.Table:
    random.Random(3).shuffle(rows)
    return pa.Table.from_pylist(rows, schema=record_schema())


def neurons(*hotkeys: str) -> list[Neuron]:
    return [Neuron(uid=uid, hotkey=hotkey, endpoint="8.8.8.8:80") for uid, hotkey in enumerate(hotkeys)]


def histories(rows: list[dict[str, object]], *hotkeys: str, window: int = 100):
    return miner_histories(WholeHistory(table(rows)), neurons(*hotkeys), netuid=NETUID, window=window)


def test_a_miner_that_answers_is_known_by_its_average() -> None:
    rows = [row(number, 0, score=0.2 + 0.1 * (number % 2)) for number in range(10)]
    (history,) = histories(rows, "hotkey-0")
    assert (history.asked, history.processed, history.accepted, history.counted) == (10, 10, 10, 10)
    assert history.average == pytest.approx(0.25)


def test_silence_counts_as_zero_but_is_no_processed_challenge() -> None:
    rows = [row(number, 0) for number in range(4)] + [row(number, 1, "timeout") for number in range(4)]
    rows += [row(4, 0), row(4, 1, score=0.5)]
    _, silent = histories(rows, "hotkey-0", "hotkey-1")
    assert (silent.asked, silent.processed, silent.counted) == (5, 1, 5)
    assert silent.average == pytest.approx(0.1)


def test_refused_answers_are_processed_and_score_nothing() -> None:
    rows = [row(number, uid, "no_flip" if uid else "accepted") for number in range(3) for uid in range(2)]
    _, refused = histories(rows, "hotkey-0", "hotkey-1")
    assert (refused.processed, refused.accepted, refused.counted, refused.average) == (3, 0, 3, 0.0)


def test_challenges_that_nobody_solved_say_nothing() -> None:
    rows = [row(number, uid, "accepted" if number < 5 else "no_flip") for number in range(20) for uid in range(2)]
    for history in histories(rows, "hotkey-0", "hotkey-1"):
        assert (history.processed, history.counted) == (20, 5)
        assert history.average == pytest.approx(0.5)


def test_who_was_not_asked_is_not_judged() -> None:
    rows = [row(1, 0), row(1, 1, "not_asked"), row(2, 0), row(2, 1)]
    assert histories(rows, "hotkey-0", "hotkey-1")[1].asked == 1


def test_the_average_rolls_over_the_last_challenges_only() -> None:
    rows = [row(number, 0, score=1.0 if number < 50 else 0.25) for number in range(60)]
    (history,) = histories(rows, "hotkey-0", window=10)
    assert (history.processed, history.counted, history.average) == (60, 10, 0.25)


def test_a_new_hotkey_at_a_uid_begins_anew_even_when_the_old_one_returns() -> None:
    first = [row(number, 0, hotkey="old") for number in range(200)]
    second = [row(number, 0, hotkey="new", score=0.9) for number in range(200, 203)]
    third = [row(number, 0, hotkey="old", score=0.1) for number in range(203, 205)]
    (new,) = histories(first + second, "new")
    assert (new.processed, new.average) == (3, pytest.approx(0.9))
    (returned,) = histories(first + second + third, "old")
    assert (returned.processed, returned.average) == (2, pytest.approx(0.1))


def test_a_hotkey_that_moved_to_another_uid_begins_anew() -> None:
    rows = [row(number, 0, hotkey="mover") for number in range(200)]
    rows += [row(number, 1, hotkey="mover") for number in range(200, 202)]
    assert histories(rows, "somebody", "mover")[1].processed == 2


def test_a_record_that_stands_twice_counts_once() -> None:
    rows = [row(number, 0) for number in range(5)]
    assert histories(rows + rows, "hotkey-0")[0].processed == 5


def test_other_subnets_are_not_ours() -> None:
    assert histories([row(1, 0, netuid=1)], "hotkey-0")[0].asked == 0


def test_an_empty_corpus_knows_nobody() -> None:
    assert histories([], "hotkey-0")[0].processed == 0
    assert miner_histories(WholeHistory(table([row(1, 0)])), [], netuid=NETUID) == []


def test_a_dataset_of_files_reads_like_a_table(tmp_path: Path) -> None:
    rows = [row(number, uid) for number in range(30) for uid in range(3)]
    records = table(rows)
    for part in range(3):
        pq.write_table(records.slice(part * 30, 30), tmp_path / f"{part}.parquet")
    dataset = pyarrow.dataset.dataset(tmp_path, schema=record_schema())
    who = neurons("hotkey-0", "hotkey-1", "hotkey-2")
    from_files = miner_histories(WholeHistory(dataset), who, netuid=NETUID)
    assert from_files == miner_histories(WholeHistory(records), who, netuid=NETUID)


def test_missing_columns_are_named() -> None:
    with pytest.raises(CorpusError, match="round_id, score"):
        miner_histories(WholeHistory(table([]).drop_columns(["score", "round_id"])), [], netuid=NETUID)


def test_only_more_than_a_hundred_challenges_make_eligible() -> None:
    rows = [row(number, 0) for number in range(101)] + [row(number, 1, score=0.9) for number in range(1, 101)]
    plan = plan_weights(WholeHistory(table(rows)), neurons("hotkey-0", "hotkey-1", "hotkey-2"), netuid=NETUID)
    assert plan.weights == {0: 1.0}
    assert [str(line.reason) for line in plan.rows] == [
        "None",
        "processed 100 challenges; more than 100 are needed",
        "processed 0 challenges; more than 100 are needed",
    ]


def test_policies_pay_as_they_say() -> None:
    scores = {7: 0.5, 3: 0.9, 5: 0.1, 1: 0.0, 9: 0.3}
    assert emission(scores, "proportional") == pytest.approx({3: 0.5, 7: 5 / 18, 9: 1 / 6, 5: 1 / 18})
    assert emission(scores, "winner_takes_most") == pytest.approx({3: 0.70, 7: 0.15, 9: 0.10, 5: 0.05})
    assert emission({4: 0.2}, "winner_takes_most") == {4: 1.0}
    assert emission({4: 0.2, 5: 0.2, 6: 0.1}, "winner_takes_most") == pytest.approx({4: 0.425, 5: 0.425, 6: 0.15})
    assert emission({4: 0.0}, "proportional") == emission({}, "winner_takes_most") == {}


@pytest.mark.parametrize("policy", EMISSION_POLICIES)
@given(scores=st.dictionaries(st.integers(0, 255), st.floats(0, 1), max_size=60))
def test_every_policy_pays_out_exactly_once_and_more_for_more(policy: str, scores: Mapping[int, float]) -> None:
    weights = emission(scores, policy)
    if any(scores.values()):
        assert sum(weights.values()) == pytest.approx(1)
    for uid, weight in weights.items():
        assert weight >= 0
        for other, less in weights.items():
            if scores[uid] > scores[other]:
                assert weight >= less - 1e-12
            elif scores[uid] == scores[other]:
                assert weight == pytest.approx(less)


def test_nonsense_is_refused() -> None:
    with pytest.raises(SettingsError, match="'greedy' is not known; accepted: proportional, winner_takes_most"):
        emission({}, "greedy")
    with pytest.raises(ValueError, match="uid 1 has score nan"):
        emission({1: float("nan")}, "proportional")
    with pytest.raises(SettingsError, match="window of 0"):
        plan_weights(WholeHistory(table([])), [], netuid=NETUID, window=0)


class RecordingChain:
    """A chain that only remembers what it was asked to set."""

    def __init__(self) -> None:
        self.asked: list[dict[int, float]] = []

    def set_weights(self, keypair: object, weights: Mapping[int, float]) -> str:
        self.asked.append(dict(weights))
        return "1-2"


def test_a_plan_is_submitted_unless_nobody_earns() -> None:
    chain = RecordingChain()
    empty = WeightsPlan("proportional", 100, 100, NETUID, None, ())
    assert submit_weights(chain, empty, object()).extrinsic is None
    rows = [row(number, 0) for number in range(101)]
    plan = plan_weights(WholeHistory(table(rows)), neurons("hotkey-0"), netuid=NETUID, emission_policy="proportional")
    assert submit_weights(chain, plan, object()).extrinsic == "1-2"
    assert chain.asked == [{0: 1.0}]
