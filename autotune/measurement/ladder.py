"""Which load a ladder measures next."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.results import LoadPoint

GAIN = 1.03  # a doubled load that brings less throughput than this has found the engine's capacity
MOST_LEVELS = 32  # of one ladder, however fine its resolution


@dataclass(frozen=True, slots=True)
class Given:
    """A list of loads, climbed in its order."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Doubling:
    """A ladder that looks for the limit: doubles from `start`, never above `most`, then halves the gap."""

    start: float
    most: float
    resolution: float  # stop when the lowest bad load is at most so much (0.1: 10 %) above the highest good one
    whole: bool = False  # loads are numbers of users


def next_load(points: Sequence[LoadPoint], ladder: Given | Doubling) -> float | None:
    """The load (per device, in the ladder's unit) to measure after `points`, which are in the order of the climb.

    None ends it: the loads are used up, a given one violates the SLA, or the limit is known to the resolution. A point
    that is invalid ends it too: heavier loads cannot be sent either.
    """
    if points and points[-1].invalid:
        return None
    match ladder:
        case Given():
            return _next_given(points, ladder.values)
        case Doubling():
            return _next_doubled(points, ladder) if len(points) < MOST_LEVELS else None


def _next_given(points: Sequence[LoadPoint], values: tuple[float, ...]) -> float | None:
    climbs = len(points) < len(values) and (not points or points[-1].feasible)
    return values[len(points)] if climbs else None


def _next_doubled(points: Sequence[LoadPoint], ladder: Doubling) -> float | None:
    if not points:
        return ladder.start
    good = sorted((point for point in points if point.feasible), key=lambda point: point.load.value)
    bad = [point.load.value for point in points if not point.feasible]
    if not good:
        return None
    highest = good[-1].load.value
    if bad:
        return _between(highest, min(bad), ladder)
    most = math.floor(ladder.most) if ladder.whole else ladder.most
    return None if highest >= most or _saturated(good) else float(min(2 * highest, most))


def _saturated(good: Sequence[LoadPoint]) -> bool:
    return any(
        above.output_throughput < GAIN * below.output_throughput for below, above in itertools.pairwise(good[-2:])
    )


def _between(good: float, bad: float, ladder: Doubling) -> float | None:
    """The geometric middle, as utilization is a ratio; None when the gap is small enough, or holds no readable load."""
    if bad <= good * (1 + ladder.resolution) * (1 + 1e-9) or (ladder.whole and bad - good <= 1):
        return None
    middle = math.sqrt(good * bad)
    if ladder.whole:
        return float(min(max(round(middle), good + 1), bad - 1))
    readable = float(f"{middle:.4g}")  # far finer than any resolution that can be measured
    return readable if good < readable < bad else None
