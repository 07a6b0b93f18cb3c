"""The load points of trials, as the front, the policies and the recommendation look at them."""

from collections.abc import Iterable, Iterator

from autotune.results import FrontPoint, LoadPoint, Measured, Trial


def measured(trial: Trial) -> Measured | None:
    """What the trial measured, if anything."""
    outcome = trial.result.outcome if trial.result else None
    return outcome if isinstance(outcome, Measured) else None


def searched(trials: Iterable[Trial]) -> list[Trial]:
    """The baseline and the search trials."""
    return [trial for trial in trials if trial.is_searched]


def operating_point(trial: Trial) -> LoadPoint | None:
    """The trial's feasible point with the highest throughput."""
    found = measured(trial)
    return found.operating_point if found else None


def feasible_points(trial: Trial) -> Iterator[LoadPoint]:
    """Feasible points of a searched trial that have a P99 TTFT.

    Of a load that was measured twice the worse run counts, so that a lucky one proves nothing.
    """
    found = measured(trial)
    if found is None or not trial.is_searched:
        return
    judged: dict[tuple[str, float], LoadPoint] = {}
    for point in found.points:
        key = (point.load.kind, point.load.value)
        if key not in judged or worst(point) > worst(judged[key]):
            judged[key] = point
    yield from (point for point in judged.values() if point.feasible and point.p99_ttft_ms is not None)


def front_point(trial: int, point: LoadPoint) -> FrontPoint:
    """A point with a P99 TTFT as the front shows it."""
    assert point.p99_ttft_ms is not None
    return FrontPoint(
        trial=trial,
        level=point.level,
        load=point.load,
        output_throughput_per_device=point.output_throughput_per_device,
        p99_ttft_ms=point.p99_ttft_ms,
        request_throughput=point.request_throughput,
    )


def worst(point: LoadPoint) -> float:
    """The largest violation of a line of the SLA."""
    return max(point.violations.values(), default=0.0)
