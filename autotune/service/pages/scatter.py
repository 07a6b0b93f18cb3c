"""Where the points of the throughput-latency plot lie, in percent of its area; the template draws them.

Percentages, because the plot then fits every screen while marks and texts keep their size.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from autotune.report.rows import baseline_trial, measured, milliseconds
from autotune.results import Confirmation, JobResult, LoadPoint, ParetoFront, Recommendation, Trial
from autotune.spec import Sla

Key = tuple[int, int]  # trial and level
Look = Literal["front", "meets", "refuted", "misses", "invalid"]

LOOKS: dict[Look, str] = {
    "front": "on the Pareto front",
    "meets": "meets the SLA",
    "refuted": "met the SLA, but not when measured again",
    "misses": "misses the SLA",
    "invalid": "not valid: the load generator was the bottleneck",
}
_DRAWN_LAST: tuple[Look, ...] = ("invalid", "misses", "refuted", "meets", "front")  # and so above the others

_MARGIN = 0.06  # of an axis, free beside the outermost points
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Spot:
    """One load point in the plot."""

    trial: int
    level: int
    look: Look
    is_baseline: bool
    is_recommended: bool
    x: float
    y: float
    text: str  # for readers that do not see it, and as a tooltip

    @property
    def key(self) -> Key:
        """Its trial and level."""
        return self.trial, self.level

    @property
    def select(self) -> str:
        """What selects it."""
        return f"trial={self.trial}:{self.level}"


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled line of the grid."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """The plot."""

    spots: tuple[Spot, ...]
    front: tuple[tuple[Spot, Spot], ...]  # neighbours on the front, joined by a line
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: Tick | None  # the SLA's P99 TTFT
    not_drawn: int  # load points whose P99 TTFT never came


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        low, high, at = map(self._scaled, (self.low, self.high, value))
        return round(100 * (at - low) / (high - low), 2)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def scatter(trials: Sequence[Trial], front: ParetoFront, sla: Sla, result: JobResult | None = None) -> Scatter | None:
    """Output throughput per device against P99 TTFT (logarithmic); None while there is nothing to draw."""
    choice = result.recommendation if result else None
    found = list(_points(trials, choice))
    drawn = [(trial, point) for trial, point in found if point.p99_ttft_ms]
    if not drawn:
        return None
    limit_ms = next((line.limit_ms for line in sla.latency_limits if line.name == "p99_ttft_ms"), None)
    x = _linear([point.output_throughput_per_device for _, point in drawn])
    y = _logarithmic([*(point.p99_ttft_ms or 0.0 for _, point in drawn), *([limit_ms] if limit_ms else [])])
    looks: dict[Key, Look] = {(trial.number, point.level): _look(trial, point, result) for trial, point in drawn}
    looks |= {(point.trial, point.level): "front" for point in front.points}
    base = baseline_trial(trials)
    spots = [_spot(trial, point, x, y, looks, base, choice) for trial, point in drawn]
    spots.sort(key=lambda spot: (_DRAWN_LAST.index(spot.look), spot.x, spot.trial))
    by_key = {spot.key: spot for spot in spots}
    line = [by_key[(p.trial, p.level)] for p in front.points if (p.trial, p.level) in by_key]
    return Scatter(
        spots=tuple(spots),
        front=tuple(pairwise(line)),
        x_ticks=tuple(Tick(x.share(value), f"{value:,.10g}") for value in _round_values(x)),
        y_ticks=tuple(Tick(round(100 - y.share(value), 2), f"{value:,.10g}") for value in _decades(y)),
        limit=Tick(round(100 - y.share(limit_ms), 2), f"SLA {limit_ms:,.10g} ms") if limit_ms else None,
        not_drawn=len(found) - len(drawn),
    )


def _points(trials: Sequence[Trial], choice: Recommendation | None) -> Iterator[tuple[Trial, LoadPoint]]:
    """One point for each level of the searched trials, and of the recommended one: of several runs the worse."""
    for trial in trials:
        outcome = measured(trial)
        if outcome is None or not (trial.is_searched or (choice and choice.trial == trial.number)):
            continue
        worst: dict[int, LoadPoint] = {}
        for point in outcome.points:
            known = worst.get(point.level)
            if known is None or (known.feasible and not point.feasible):
                worst[point.level] = point
        yield from ((trial, point) for point in worst.values())


def _look(trial: Trial, point: LoadPoint, result: JobResult | None) -> Look:
    """How a point that is not on the front looks."""
    if not point.feasible:
        return "invalid" if point.invalid else "misses"
    again = confirmation_of(result, trial.number, point)
    return "meets" if again is None or again.holds else "refuted"


def confirmation_of(result: JobResult | None, trial: int, point: LoadPoint) -> Confirmation | None:
    """The re-runs of a trial at the load of a point."""
    found = result.confirmations if result else ()
    return next((again for again in found if (again.trial, again.load) == (trial, point.load)), None)


def _spot(
    trial: Trial,
    point: LoadPoint,
    x: _Axis,
    y: _Axis,
    looks: Mapping[Key, Look],
    base: Trial | None,
    choice: Recommendation | None,
) -> Spot:
    key = (trial.number, point.level)
    look = looks[key]
    is_baseline = base is not None and trial.number == base.number
    is_recommended = choice is not None and key == (choice.trial, choice.level)
    told = [
        f"trial {trial.number}{' (baseline)' if is_baseline else ''} at {point.load}",
        f"{point.output_throughput_per_device:,.0f} tok/s per device",
        f"P99 TTFT {milliseconds(point.p99_ttft_ms)}",
        LOOKS[look],
        *(["recommended"] if is_recommended else []),
    ]
    return Spot(
        trial=trial.number,
        level=point.level,
        look=look,
        is_baseline=is_baseline,
        is_recommended=is_recommended,
        x=x.share(point.output_throughput_per_device),
        y=round(100 - y.share(point.p99_ttft_ms or 0.0), 2),
        text=", ".join(told),
    )


def _linear(values: Sequence[float]) -> _Axis:
    """From zero, unless the values lie close together far from it."""
    low, high = min(values), max(values)
    span = (high - low) or high or 1.0
    return _Axis(0.0 if low <= high / 2 else low - _MARGIN * span, high + _MARGIN * span)


def _logarithmic(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    margin = max((high / low) ** _MARGIN, 1.15)
    return _Axis(low / margin, high * margin, is_log=True)


def _round_values(axis: _Axis) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (axis.high - axis.low) / _MOST_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(axis.low / step)
    return [round(step * n, 10) for n in range(first, math.floor(axis.high / step) + 1)]


def _decades(axis: _Axis) -> list[float]:
    """1, 2 and 5 times powers of ten; only the powers where those are many, round values where they are too few."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [value for value in every if axis.low <= value <= axis.high]
    if len(inside) < 3:
        return _round_values(axis)
    return inside if len(inside) <= 2 * _MOST_TICKS else [v for v in inside if math.log10(v).is_integer()]
