"""Scores: monotone, in range, and apart where attacks are."""

from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturb.schemas.bounds import Bounds
from perturb.schemas.challenge import Task
from perturb.schemas.errors import SettingsError
from perturb.schemas.verdict import Verdict
from perturb.tasks.verify.score import POLICIES, score
from tests.support.scoring_curve import table
from tests.support.tasks import make_task

VALUES = 224 * 224 * 3


def task(**bounds: float) -> Task:
    return make_task(bounds=Bounds(**bounds))


def accepted(*, levels: int = 1, share: float = 1.0, margin: float = 1.0, outcome: str = "accepted") -> Verdict:
    """An answer that changes `share` of the values by `levels`."""
    return Verdict(
        outcome=outcome, linf=levels / 255, linf_levels=levels, rmse=levels * sqrt(share) / 255, margin=margin
    )


def points(verdict: Verdict, *, policy: str = "grid-1", ms: float = 0.0, **bounds: float) -> float:
    return score(verdict, task(**bounds), ms, policy=policy).score


def test_grid_separates_what_linf_cannot() -> None:
    full, tenth, hundredth, thousandth = (points(accepted(share=share)) for share in (1, 0.1, 0.01, 0.001))
    steps = [tenth - full, hundredth - tenth, thousandth - hundredth]
    # Each is worth more than 4 seconds of the 20 that a miner has.
    assert min(steps) > 0.06
    assert all(points(accepted(levels=levels)) < full for levels in (2, 4, 8))


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (accepted(), 0.880),
        (accepted(share=0.026), 0.940),
        (accepted(share=1 / VALUES), 0.953),
        (accepted(levels=2), 0.635),
        (accepted(levels=4), 0.265),
    ],
)
def test_public_1_is_the_public_formula(verdict: Verdict, expected: float) -> None:
    # With the bounds of the public validator, 0.003 to 0.03.
    found = score(verdict, task(epsilon_min=0.003, epsilon=0.03), 0, policy="public-1")
    assert found.quality == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("policy", POLICIES)
@given(
    levels=st.tuples(st.integers(1, 8), st.integers(0, 7)),
    rmse=st.tuples(st.floats(1 / 255 / sqrt(VALUES), 8 / 255), st.floats(0, 8 / 255)),
    ms=st.tuples(st.floats(0, 40_000), st.floats(0, 40_000)),
)
@settings(deadline=None)
def test_less_is_never_worth_less(
    policy: str, levels: tuple[int, int], rmse: tuple[float, float], ms: tuple[float, float]
) -> None:
    """Each pair is a value and what is added to it."""
    small = Verdict(outcome="accepted", linf=levels[0] / 255, rmse=rmse[0], margin=1.0)
    large = Verdict(outcome="accepted", linf=min(8, sum(levels)) / 255, rmse=sum(rmse), margin=1.0)
    assert 0 <= points(large, policy=policy, ms=sum(ms)) <= points(small, policy=policy, ms=ms[0]) <= 1


@pytest.mark.parametrize("policy", POLICIES)
@given(margin=st.floats(-10, 10), ms=st.floats(0, 1e6), levels=st.integers(1, 8))
@settings(deadline=None)
def test_nothing_below_the_required_margin(policy: str, margin: float, ms: float, levels: int) -> None:
    found = score(accepted(levels=levels, margin=margin), task(min_margin=0.5), ms, policy=policy)
    assert (found.score > 0) == (margin >= 0.5 and (levels < 8 or ms < 20_000 or found.quality > 0))
    if margin < 0.5:
        assert (found.quality, found.speed, found.score) == (0, 0, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_refused_earns_nothing(policy: str) -> None:
    assert points(accepted(outcome="ssim_too_low"), policy=policy) == 0
    assert points(Verdict(outcome="timeout"), policy=policy) == 0


def test_parts_and_weights() -> None:
    found = score(accepted(), task(), 5_000, policy="grid-1")
    assert found.speed == 0.75
    assert found.score == pytest.approx(0.7 * found.quality + 0.3 * 0.75)
    assert found.policy == "grid-1"
    assert score(accepted(), task(), 30_000, policy="grid-1").speed == 0


def test_a_single_level_of_room_still_ranks() -> None:
    one = {"epsilon": 1 / 255, "epsilon_min": 1 / 255}
    for policy in POLICIES:
        assert points(accepted(share=0.01), policy=policy, **one) > points(accepted(), policy=policy, **one) > 0


def test_unknown_policy() -> None:
    with pytest.raises(SettingsError, match="policy 'best' is not known; accepted: grid-1, public-1"):
        points(accepted(), policy="best")


def test_the_documented_curve_is_the_real_one() -> None:
    root = Path(__file__).parents[3]
    assert "\n".join(table()) in (root / "docs" / "scoring.md").read_text()
