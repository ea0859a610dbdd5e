"""Shares with their limits, as decimal strings: a signed document has no floats.

Lower limits are rounded down and upper limits up, to six decimals.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import sqrt

from pydantic import BaseModel, ConfigDict

_PLACES = Decimal("0.000001")


class Limits(BaseModel):
    """A two-sided confidence interval: decimal strings in 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lower: str
    upper: str


def share(count: int, total: int) -> str | None:
    """Return count / total as a decimal string; None of nothing."""
    return str((Decimal(count) / Decimal(total)).quantize(_PLACES, ROUND_HALF_EVEN)) if total else None


def decimal(value: float, places: int = 6) -> str:
    """Return a number as a decimal string, rounded to `places`; `-0` becomes `0`."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN) + 0)


def clopper_pearson(count: int, total: int, alpha: float) -> Limits:
    """Return the exact interval of Clopper and Pearson 1934: its coverage is at least 1 - alpha for every share."""
    from scipy.stats import beta

    if total == 0:
        return Limits(lower="0.000000", upper="1.000000")
    lower = beta.ppf(alpha / 2, count, total - count + 1) if count else 0.0
    upper = beta.ppf(1 - alpha / 2, count + 1, total - count) if count < total else 1.0
    return _limits(float(lower), float(upper))


def wilson(count: int, total: int, alpha: float) -> Limits:
    """Return Wilson's score interval of 1927, which covers less than stated where the share is near 0 or 1."""
    from scipy.stats import norm

    if total == 0:
        return Limits(lower="0.000000", upper="1.000000")
    low, high = _wilson(count, total, float(norm.ppf(1 - alpha / 2)))
    return _limits(low, high)


def _wilson(count: int, total: int, z: float) -> tuple[float, float]:
    p = count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return middle - half, middle + half


def confidence_sequence(count: int, total: int, alpha: float) -> Limits:
    """Return limits that hold however it was decided to stop after `total` images.

    The shares p at which the mixture of likelihoods under a uniform prior, divided by the likelihood at p, stays below
    1 / alpha (Robbins 1970, "Statistical methods related to the law of the iterated logarithm", the beta mixture of
    Howard et al. 2021, arXiv:1810.08240): B(k + 1, n - k + 1) / (p^k (1 - p)^(n - k)) < 1 / alpha.
    """
    from scipy.optimize import brentq
    from scipy.special import betaln, xlog1py, xlogy

    if total == 0:
        return Limits(lower="0.000000", upper="1.000000")
    edge = float(betaln(count + 1, total - count + 1)) - _log(1 / alpha)

    def over(p: float) -> float:
        return edge - float(xlogy(count, p) + xlog1py(total - count, -p))

    p = count / total
    tiny = 1e-12
    lower = brentq(over, tiny, p) if count and over(tiny) > 0 else 0.0
    upper = brentq(over, p, 1 - tiny) if count < total and over(1 - tiny) > 0 else 1.0
    return _limits(float(lower), float(upper))


def _log(value: float) -> float:
    from math import log

    return log(value)


def mcnemar(only_first: int, only_second: int) -> str:
    """Return the exact two-sided p of McNemar's test: of the images on which two differ, how many are the first's."""
    from scipy.stats import binomtest

    total = only_first + only_second
    return decimal(float(binomtest(only_first, total).pvalue) if total else 1.0)


def newcombe(both: int, only_first: int, only_second: int, neither: int, alpha: float) -> Limits:
    """Return limits of the difference of two paired shares, -1..1 (Newcombe 1998, "Improved confidence intervals for
    the difference between binomial proportions based on paired data", method 10)."""
    from scipy.stats import norm

    n = both + only_first + only_second + neither
    if n == 0:
        return Limits(lower="-1.000000", upper="1.000000")
    z = float(norm.ppf(1 - alpha / 2))
    first, second = both + only_first, both + only_second
    (l1, u1), (l2, u2) = _wilson(first, n, z), _wilson(second, n, z)
    p1, p2 = first / n, second / n
    product = first * (n - first) * second * (n - second)
    excess: float = both * neither - only_first * only_second
    if excess > n / 2:
        excess -= n / 2
    elif excess >= 0:
        excess = 0
    phi = excess / sqrt(product) if product else 0.0
    down = sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    up = sqrt(max(0.0, (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2))
    return _limits(p1 - p2 - down, p1 - p2 + up, least=-1.0)


def rogan_gladen(
    count: int, total: int, *, sensitivity: tuple[int, int], specificity: tuple[int, int], alpha: float
) -> tuple[str, Limits] | None:
    """Return a rate that a fallible judge counted, corrected for its measured errors, with limits.

    `sensitivity` and `specificity` are (right, asked) of the judge's calibration; the uncertainty of both is part of
    the interval (Rogan and Gladen 1978; limits by Lang and Reiczigel 2014). None where the judge is no better than
    chance, or nothing was counted.
    """
    from scipy.stats import norm

    if not total or not sensitivity[1] or not specificity[1]:
        return None
    z = float(norm.ppf(1 - alpha / 2))
    n, p = total + z * z, (count + z * z / 2) / (total + z * z)
    n_se, se = sensitivity[1] + 2, (sensitivity[0] + 1) / (sensitivity[1] + 2)
    n_sp, sp = specificity[1] + 2, (specificity[0] + 1) / (specificity[1] + 2)
    youden = se + sp - 1
    if youden <= 0 or sensitivity[0] / sensitivity[1] + specificity[0] / specificity[1] <= 1:
        return None
    prevalence = (p + sp - 1) / youden
    delta = 2 * z * z * (prevalence * se * (1 - se) / n_se - (1 - prevalence) * sp * (1 - sp) / n_sp)
    spread = p * (1 - p) / n + prevalence**2 * se * (1 - se) / n_se + (1 - prevalence) ** 2 * sp * (1 - sp) / n_sp
    half = z * sqrt(max(spread, 0.0)) / youden
    plain_se, plain_sp = sensitivity[0] / sensitivity[1], specificity[0] / specificity[1]
    point = min(1.0, max(0.0, (count / total + plain_sp - 1) / (plain_se + plain_sp - 1)))
    low, high = prevalence + delta - half, prevalence + delta + half
    return decimal(point), _limits(min(low, point), max(high, point))


def spearman(first: list[float], second: list[float]) -> str | None:
    """Return Spearman's rank correlation; None with fewer than three pairs or where one of the two never changes."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return decimal(float(spearmanr(first, second).statistic), 4)


def _limits(lower: float, upper: float, *, least: float = 0.0) -> Limits:
    low = Decimal(max(lower, least)).quantize(_PLACES, ROUND_FLOOR)
    high = Decimal(min(upper, 1.0)).quantize(_PLACES, ROUND_CEILING)
    return Limits(lower=str(low), upper=str(high))
