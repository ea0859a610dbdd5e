"""Intervals of means: their width, units without values, and differences of the same units."""

import numpy as np
import pytest

from perturb.models.bootstrap import interval, interval_of


def test_intervals_cover_the_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = interval_of(list(values))
    assert found["low"] < found["mean"] < found["high"]
    # Twice the standard error on either side.
    assert found["high"] - found["low"] == pytest.approx(3.92 / 20, rel=0.15)
    assert interval_of([0.5]) == {"mean": 0.5, "low": 0.5, "high": 0.5, "count": 1}


def test_the_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    found = [interval_of(list(random.normal(0, 1, 60))) for _ in range(200)]
    covered = np.mean([one["low"] <= 0 <= one["high"] for one in found])
    # 95 %, less what 60 values and 200 trials allow: three standard errors.
    assert covered > 0.95 - 0.05


def test_units_weigh_by_their_values() -> None:
    sums = np.array([[3.0, 3.0], [0.0, 1.0], [0.0, 0.0]])
    assert interval(sums)["mean"] == 0.75
    assert interval(sums)["count"] == 4
    assert interval(sums, sums) == {"mean": 0, "low": 0, "high": 0, "count": 4}
    with pytest.raises(ValueError, match="no unit has a value"):
        interval(np.zeros((2, 2)))
