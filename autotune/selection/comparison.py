"""Differences between configurations, with their intervals."""

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t as student

from autotune.results import Comparison, Difference, LoadPoint

CONFIDENCE = 0.95  # of two-sided intervals


def compare(candidate: LoadPoint, baseline: LoadPoint | None) -> Comparison:
    """A candidate's operating point against the baseline's, as ratios; None where the baseline has no number."""
    if baseline is None:
        return Comparison(throughput_ratio=None, p99_ttft_ratio=None)
    return Comparison(
        throughput_ratio=ratio(candidate.output_throughput_per_device, baseline.output_throughput_per_device),
        p99_ttft_ratio=ratio(candidate.p99_ttft_ms, baseline.p99_ttft_ms),
    )


def throughput_difference(runs: Sequence[LoadPoint], others: Sequence[LoadPoint], *, best_of: int = 1) -> Difference:
    """By how much the mean output throughput of `runs` exceeds that of `others`, in tokens/s per device.

    Runs at the same load with the same seeds were sent the same requests: they are compared in pairs, and what the
    requests did to both cancels. At different loads the requests differ and a seed has nothing in common: Welch.
    `best_of` as in `mean_difference`. Raises ValueError without runs on either side.
    """
    values = [run.output_throughput_per_device for run in runs]
    theirs = [run.output_throughput_per_device for run in others]
    if [_requests(run) for run in runs] == [_requests(run) for run in others]:
        return paired_difference(values, theirs, best_of=best_of)
    return mean_difference(values, theirs, best_of=best_of)


def mean_difference(values: Sequence[float], others: Sequence[float], *, best_of: int = 1) -> Difference:
    """mean(values) - mean(others) of independent samples, with the interval of Welch (Biometrika 34, 1947).

    The degrees of freedom are Satterthwaite's. When the sample is the best of several by these very values, its
    interval is wide enough for the intervals of all of them to hold together with 95 % (Bonferroni's inequality; Dunn,
    Journal of the American Statistical Association 56, 1961): each has 1 - 0.05 / `best_of`. No bounds when a side has
    a single value; samples that do not vary at all have an interval of width 0. Raises ValueError for an empty sample.
    """
    if not values or not others:
        raise ValueError("a difference needs values on both sides")
    difference = statistics.fmean(values) - statistics.fmean(others)
    if min(len(values), len(others)) == 1:
        return Difference(value=difference, low=None, high=None, best_of=best_of)
    parts = [(statistics.variance(sample) / len(sample), len(sample) - 1) for sample in (values, others)]
    error = sum(part for part, _ in parts)
    if error == 0:
        return Difference(value=difference, low=difference, high=difference, best_of=best_of)
    freedom = error**2 / sum(part**2 / n for part, n in parts)
    return _within(difference, math.sqrt(error), freedom, best_of)


def paired_difference(values: Sequence[float], others: Sequence[float], *, best_of: int = 1) -> Difference:
    """The mean of values[i] - others[i], with the interval of Student's t for paired observations.

    `best_of` as in `mean_difference`. No bounds for a single pair. Raises ValueError for samples that are empty or of
    different lengths.
    """
    if not values:
        raise ValueError("a difference needs values on both sides")
    deltas = [value - other for value, other in zip(values, others, strict=True)]
    difference = statistics.fmean(deltas)
    if len(deltas) == 1:
        return Difference(value=difference, low=None, high=None, best_of=best_of)
    return _within(difference, statistics.stdev(deltas) / math.sqrt(len(deltas)), len(deltas) - 1, best_of)


def ratio(value: float | None, base: float | None) -> float | None:
    """Value over base, where both are known and the base is not zero."""
    return value / base if value is not None and base else None


def _within(difference: float, error: float, freedom: float, best_of: int) -> Difference:
    reach = float(student.ppf(1 - (1 - CONFIDENCE) / best_of / 2, freedom)) * error
    return Difference(value=difference, low=difference - reach, high=difference + reach, best_of=best_of)


def _requests(run: LoadPoint) -> tuple[str, float, int, int]:
    return run.load.kind, run.load.value, run.devices, run.seed
