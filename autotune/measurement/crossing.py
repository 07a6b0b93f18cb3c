"""What the levels of one ladder say together: its operating point, and the load where the SLA breaks."""

from collections.abc import Iterable

from autotune.results import LoadPoint


def operating_point(points: Iterable[LoadPoint]) -> LoadPoint | None:
    """The feasible point with the highest output throughput per device; None when no point is feasible."""
    feasible = [point for point in _one_per_load(points) if point.feasible]
    return max(feasible, key=lambda point: point.output_throughput_per_device, default=None)


def sla_crossing_throughput(points: Iterable[LoadPoint]) -> float:
    """Output throughput per device (tokens/s) at the load where the worst violation crosses 0.

    Between the last good level and the bad one above it, violation and throughput are taken as linear in log(load).
    Never below the best good level. All levels good: the highest throughput; none: that of the lowest level. The order
    of the points does not matter, and invalid ones are left out. Raises ValueError when no point is left.
    """
    ladder = _one_per_load(points)
    if not ladder:
        raise ValueError("an SLA crossing needs at least one valid load point")
    good = [index for index, point in enumerate(ladder) if point.feasible]
    if not good:
        return _tokens_per_s(ladder[0]) / ladder[0].devices
    best = max(ladder[index].output_throughput_per_device for index in good)
    if good[-1] + 1 == len(ladder):
        return best
    return max(best, _interpolate(ladder[good[-1]], ladder[good[-1] + 1]))


def _interpolate(below: LoadPoint, above: LoadPoint) -> float:
    start, end = max(below.violations.values()), max(above.violations.values())
    # Both lines run over the same log(load), so the share of the way to the crossing is the same on both.
    share = -start / (end - start)
    low, high = below.output_throughput_per_device, _tokens_per_s(above) / above.devices
    return low + share * (high - low)


def _tokens_per_s(point: LoadPoint) -> float:
    """Of a level that was ended early most answers are incomplete, but the engine has counted their tokens."""
    counted = point.engine.get("generation_tokens", 0.0) / point.duration_s if point.aborted else 0.0
    return max(point.output_throughput, counted)


def _one_per_load(points: Iterable[LoadPoint]) -> list[LoadPoint]:
    """The valid points by rising load; of a load measured twice the worse one, so that a lucky run proves nothing."""
    worst: dict[float, LoadPoint] = {}
    for point in points:
        if point.invalid:
            continue
        known = worst.get(point.load.value)
        if known is None or max(point.violations.values()) > max(known.violations.values()):
            worst[point.load.value] = point
    return [worst[load] for load in sorted(worst)]
