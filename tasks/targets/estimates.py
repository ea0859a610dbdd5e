"""Estimates of a report card: means, differences and ratios with 95 % intervals by bootstrap over photographs."""

import numpy as np
import numpy.typing as npt

from perturb.models.bootstrap import Interval, Sums, interval
from perturb.schemas.report_card import Difference, Estimate, Share

_RESAMPLES = 2000
Values = npt.NDArray[np.float64]


def share(sums: Sums) -> Share | None:
    """Return sum / count of all photographs, float64 (photographs, 2); None where no photograph has a value."""
    if not sums[:, 1].sum():
        return None
    found = interval(sums)
    return Share(value=found["mean"], n=_photographs(sums), **_limits(found))


def difference(sums: Sums, less: Sums) -> Difference | None:
    """Return the paired difference of two shares of the same photographs; None where no photograph has a value."""
    if not sums[:, 1].sum() or not less[:, 1].sum():
        return None
    found = interval(sums, less)
    return Difference(value=found["mean"], n=_photographs(sums), **_limits(found))


def each(values: npt.NDArray[np.bool_] | Values) -> Sums:
    """Return one value of each photograph as sums and counts."""
    return np.column_stack([np.asarray(values, np.float64), np.ones(len(values))])


def ratio_of_medians(own: Values, other: Values) -> Estimate | None:
    """Return median(own) / median(other), of the same photographs; None where there are none."""
    if not len(own):
        return None
    chosen = np.random.default_rng(0).integers(0, len(own), (_RESAMPLES, len(own)))
    drawn = np.median(own[chosen], axis=1) / np.median(other[chosen], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = float(np.median(own) / np.median(other))
    return Estimate(value=value, n=len(own), low=float(low), high=float(high))


def _photographs(sums: Sums) -> int:
    return int((sums[:, 1] > 0).sum())


def _limits(found: Interval) -> dict[str, float]:
    return {"low": found["low"], "high": found["high"]}
