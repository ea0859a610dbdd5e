"""Limits cover what they promise, by simulation, and agree with tables of others."""

import numpy as np
import pytest

from perturb.certificates.statistics import (
    Limits,
    clopper_pearson,
    confidence_sequence,
    mcnemar,
    newcombe,
    rogan_gladen,
    wilson,
)

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)


def covers(limits: Limits, share: float) -> bool:
    return float(limits.lower) <= share <= float(limits.upper)


@pytest.mark.parametrize("share", SHARES)
def test_printed_limits_cover_the_true_share(share: float) -> None:
    """Exactly, over all outcomes of 100 images, as one of the five intervals of a plan of four levels."""
    from scipy.stats import binom

    alpha = 0.05 / 5
    covered = sum(
        float(binom.pmf(count, 100, share)) for count in range(101) if covers(clopper_pearson(count, 100, alpha), share)
    )
    assert covered >= 1 - alpha


@pytest.mark.parametrize("share", SHARES)
def test_limits_hold_however_the_run_was_stopped(share: float) -> None:
    """The worst stopping rule: stop at the first number of images at which the true share is not covered."""
    rng = np.random.default_rng(1)
    runs = 400
    known = {
        (count, total): covers(confidence_sequence(count, total, 0.05), share)
        for total in range(1, 61)
        for count in range(total + 1)
    }
    missed = 0
    for _ in range(runs):
        counts = np.cumsum(rng.random(60) < share)
        missed += any(not known[int(count), total] for total, count in enumerate(counts, start=1))
    assert missed / runs <= 0.05


def test_figures_of_others() -> None:
    # Clopper-Pearson and Wilson of 0 of 100 at alpha 0.05; Newcombe 1998, table III.
    assert clopper_pearson(0, 100, 0.05) == Limits(lower="0.000000", upper="0.036217")
    assert wilson(0, 100, 0.05).upper == "0.036994"
    found = newcombe(36, 12, 2, 0, 0.05)
    assert (round(float(found.lower), 4), round(float(found.upper), 4)) == (0.0569, 0.3404)
    assert mcnemar(5, 0) == "0.062500"
    assert mcnemar(6, 0) == "0.031250"
    assert mcnemar(0, 0) == "1.000000"


def test_a_judge_that_errs_is_corrected() -> None:
    found = rogan_gladen(20, 100, sensitivity=(5, 10), specificity=(57, 62), alpha=0.05)
    assert found is not None
    share, limits = found
    assert share == "0.284615"  # (0.2 + 57/62 - 1) / (0.5 + 57/62 - 1)
    assert float(limits.lower) < 0.15 < 0.28 < 0.5 < float(limits.upper)
    assert rogan_gladen(5, 10, sensitivity=(1, 2), specificity=(1, 2), alpha=0.05) is None
