"""Percentile bootstrap of means (Efron 1979, "Bootstrap methods: another look at the jackknife"), with a fixed seed."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

_RESAMPLES = 2000

Sums = npt.NDArray[np.float64]
"""Sum and count of one figure for each unit that is drawn again, float64 (units, 2)."""


class Interval(TypedDict):
    """A mean with its 95 % interval, and the number of values in it."""

    mean: float
    low: float
    high: float
    count: int


def interval(sums: Sums, less: Sums | None = None) -> Interval:
    """Return sum / count over all units with its 95 % interval; with `less`, minus that of the same units there.

    Units without values, of count 0, may be among them. Raises ValueError where no unit has any.
    """
    if not sums[:, 1].sum() or (less is not None and not less[:, 1].sum()):
        raise ValueError("no unit has a value")
    chosen = np.random.default_rng(0).integers(0, len(sums), (_RESAMPLES, len(sums)))
    drawn = _means(sums, chosen) - (0 if less is None else _means(less, chosen))
    whole = np.arange(len(sums))[None]
    mean = _means(sums, whole)[0] - (0 if less is None else _means(less, whole)[0])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(mean=float(mean), low=float(low), high=float(high), count=int(sums[:, 1].sum()))


def interval_of(values: list[float]) -> Interval:
    """Return the mean of values with its 95 % interval; each value is a unit."""
    return interval(np.column_stack([np.asarray(values, np.float64), np.ones(len(values))]))


def _means(sums: Sums, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    # A resample may hold no unit with a value.
    with np.errstate(invalid="ignore"):
        means: npt.NDArray[np.float64] = sums[chosen, 0].sum(axis=1) / sums[chosen, 1].sum(axis=1)
    return means
