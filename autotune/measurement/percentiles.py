"""Nearest-rank percentiles with distribution-free bounds."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from autotune.results import Quantile

CONFIDENCE = 0.95  # of each one-sided bound


def quantile(ordered_ms: Sequence[float] | NDArray[np.float64], percent: float) -> Quantile:
    """The nearest-rank percentile of ascending samples (ms) with its two one-sided 95 % bounds.

    The bounds are order statistics and hold for every distribution: David & Nagaraja, Order Statistics (3rd edition),
    sec. 7.1. A value that is infinite or does not exist is None.
    """
    count = len(ordered_ms)
    # The tiny margin undoes binary fractions: 99.9 % of 1000 is rank 999, not 1000.
    rank = max(1, math.ceil(percent * count / 100 - 1e-9))
    return Quantile(
        percent=percent,
        value_ms=_at_rank(ordered_ms, rank),
        lower_ms=_at_rank(ordered_ms, lower_rank(count, percent)),
        upper_ms=_at_rank(ordered_ms, upper_rank(count, percent)),
    )


def lower_rank(count: int, percent: float) -> int:
    """Rank (from 1) of the sample that is below the true percentile with 95 % confidence; 0: there is none.

    The number of samples below the percentile is binomial(count, percent / 100).
    """
    return int(binom.ppf(1 - CONFIDENCE, count, percent / 100)) if count else 0


def upper_rank(count: int, percent: float) -> int:
    """Rank (from 1) of the sample that is above the true percentile with 95 % confidence; above `count`: none is.

    For a P99 it exists from 299 samples on, where it is the largest.
    """
    return int(binom.ppf(CONFIDENCE, count, percent / 100)) + 1 if count else 1


def _at_rank(ordered_ms: Sequence[float] | NDArray[np.float64], rank: int) -> float | None:
    """The sample at a rank from 1; None where there is none or it is infinite."""
    if not 1 <= rank <= len(ordered_ms):
        return None
    value = float(ordered_ms[rank - 1])
    return value if math.isfinite(value) else None
