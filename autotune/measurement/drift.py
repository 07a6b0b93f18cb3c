"""Whether a level reached a steady state: the latencies of its second half against those of its first."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from autotune.level_run import RequestRecord
from autotune.measurement.samples import samples_ms

GROWTH = 1.25  # of the median: less is within what two halves of a healthy level differ by
SIGNIFICANT = 0.005  # one-sided, of all metrics together
BLOCKS = 20  # half of them in each half of the level
FEWEST_PER_BLOCK = 2


@dataclass(frozen=True, slots=True)
class Drift:
    """How a latency of a level moved."""

    ratio: float | None  # median of the second half over that of the first; None: too few requests, or infinite
    steady: bool
    metric: str = "ttft"


def drift(records: Sequence[RequestRecord], metrics: Iterable[str] = ("ttft",), *, users: int = 0) -> Drift:
    """Compare the halves of a level by scheduled time; pooled runs are halved each by itself.

    Records are in the plan's order, run after run. Of several metrics the one that grew most beyond chance is told, or
    else the first.

    Not steady is a latency that grows both by much and beyond chance: a queue or a batch that builds up, so that a
    longer level would show worse figures. Neighbours wait in the same queue and are no independent samples, so chance
    is judged by the medians of 20 blocks (batch means: Law, Simulation Modeling and Analysis, sec. 9.5.3) with the test
    of Mann and Whitney (1947), at 0.5 % for all metrics together (Bonferroni's inequality). The `users` earliest
    requests of a closed loop are left out: all of them come at once.
    """
    runs = [sorted(run, key=lambda record: record.scheduled_s)[users:] for run in _runs(records)]
    wanted = tuple(dict.fromkeys(metrics))
    found = [_of_metric(runs, metric, SIGNIFICANT / len(wanted)) for metric in wanted]
    grown = [one for one in found if not one.steady]
    return max(grown, key=lambda one: math.inf if one.ratio is None else one.ratio, default=found[0])


def _of_metric(runs: Sequence[Sequence[RequestRecord]], metric: str, significant: float) -> Drift:
    """Requests without a value, as the TPOT of a single token, are left out."""
    told = [[values for record in run if (values := samples_ms(record, metric))] for run in runs]
    if sum(map(len, told)) < BLOCKS * FEWEST_PER_BLOCK:
        return Drift(None, steady=True, metric=metric)
    blocks: list[list[float]] = [[] for _ in range(BLOCKS)]
    for run in told:
        for position, values in enumerate(run):
            blocks[position * BLOCKS // len(run)] += values
    return _between(blocks[: BLOCKS // 2], blocks[BLOCKS // 2 :], metric, significant)


def _runs(records: Iterable[RequestRecord]) -> list[list[RequestRecord]]:
    """Pooled records by run: each starts over at a lower index."""
    runs: list[list[RequestRecord]] = []
    for record in records:
        if not runs or record.index <= runs[-1][-1].index:
            runs.append([])
        runs[-1].append(record)
    return runs


def _between(first: Sequence[list[float]], second: Sequence[list[float]], metric: str, significant: float) -> Drift:
    before, after = _median(chain.from_iterable(first)), _median(chain.from_iterable(second))
    large = after > GROWTH * before
    if large:
        test = mannwhitneyu(_medians(second), _medians(first), alternative="greater", method="asymptotic")
        large = bool(test.pvalue < significant)
    known = math.isfinite(before) and math.isfinite(after) and before > 0
    return Drift(after / before if known else None, steady=not large, metric=metric)


def _medians(blocks: Sequence[list[float]]) -> NDArray[np.float64]:
    return np.array([_median(block) for block in blocks if block])


def _median(values: Iterable[float]) -> float:
    """The lower one of two middle values: between a number and infinity there is no middle."""
    ascending = sorted(values)
    return ascending[(len(ascending) - 1) // 2] if ascending else math.inf
