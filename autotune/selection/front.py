"""The Pareto front of output throughput per device versus P99 TTFT."""

from collections.abc import Collection, Sequence

from autotune.results import FrontPoint, ParetoFront, Trial
from autotune.selection.points import feasible_points, front_point


def pareto_front(trials: Sequence[Trial], *, demoted: Collection[tuple[int, int]] = ()) -> ParetoFront:
    """The non-dominated feasible load points of all measured baseline and search trials, by rising throughput.

    Maximises output tokens/s per device, minimises P99 TTFT (ms). Confirmations and the launches of an attribution
    judge the front and are no part of it: `demoted` names the points, as (trial, level), whose re-runs did not keep
    the SLA, and they are left out with those whose P99 never came. Of equal points that of the lowest trial stays.
    """
    every = [front_point(trial.number, point) for trial in trials for point in feasible_points(trial)]
    points = [point for point in every if (point.trial, point.level) not in demoted]
    points.sort(key=lambda p: (-p.output_throughput_per_device, p.p99_ttft_ms, p.trial, p.level))
    front: list[FrontPoint] = []
    for point in points:
        if not front or point.p99_ttft_ms < front[-1].p99_ttft_ms:
            front.append(point)
    return ParetoFront(points=tuple(reversed(front)))
