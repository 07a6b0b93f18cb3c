"""Nearest-rank percentiles with distribution-free bounds."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from autotune.results import Quantile

CONFIDENCE = 0.95  # of each one-sided bound, unless the SLA asks for another


def quantile(
    ordered_ms: Sequence[float] | NDArray[np.float64], percent: float, confidence: float = CONFIDENCE
) -> Quantile:
    """The nearest-rank percentile of ascending samples (ms) with its two one-sided bounds.

    The bounds are order statistics and hold for every distribution: David & Nagaraja, Order Statistics (3rd edition),
    sec. 7.1. A value that is infinite or does not exist is None.
    """
    count = len(ordered_ms)
    return Quantile(
        percent=percent,
        value_ms=_at_rank(ordered_ms, nearest_rank(count, percent)),
        lower_ms=_at_rank(ordered_ms, lower_rank(count, percent, confidence)),
        upper_ms=_at_rank(ordered_ms, upper_rank(count, percent, confidence)),
    )


def nearest_rank(count: int, percent: float) -> int:
    """Rank (from 1) of the sample that is the percentile of `count` samples: the p% of them are at or below it."""
    # The tiny margin undoes binary fractions: 99.9 % of 1000 is rank 999, not 1000.
    return max(1, math.ceil(percent * count / 100 - 1e-9))


def lower_rank(count: int, percent: float, confidence: float = CONFIDENCE) -> int:
    """Rank (from 1) of the sample that is below the true percentile with this confidence; 0: there is none.

    The number of samples below the percentile is binomial(count, percent / 100).
    """
    return int(binom.ppf(1 - confidence, count, percent / 100)) if count else 0


def upper_rank(count: int, percent: float, confidence: float = CONFIDENCE) -> int:
    """Rank (from 1) of the sample that is above the true percentile with this confidence; above `count`: none is.

    For a P99 and 95 % it exists from 299 samples on, where it is the largest.
    """
    return int(binom.ppf(confidence, count, percent / 100)) + 1 if count else 1


def fewest_samples(percent: float, confidence: float) -> int:
    """The smallest number of samples that has an upper bound of the percentile at all.

    The largest of n samples is below the percentile with probability (percent / 100)^n, which may be at most
    1 - confidence: 299 for a P99 at 95 %.
    """
    count = max(1, math.floor(math.log1p(-confidence) / math.log(percent / 100)))
    while upper_rank(count, percent, confidence) > count:  # the logarithm may round to either side
        count += 1
    return count


def _at_rank(ordered_ms: Sequence[float] | NDArray[np.float64], rank: int) -> float | None:
    """The sample at a rank from 1; None where there is none or it is infinite."""
    if not 1 <= rank <= len(ordered_ms):
        return None
    value = float(ordered_ms[rank - 1])
    return value if math.isfinite(value) else None
