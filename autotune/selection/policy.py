"""What a user may ask for: a rule over the front, or a trial by hand."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autotune.errors import InputError, NotFound
from autotune.results import FrontPoint, ParetoFront, Trial
from autotune.selection.points import feasible_points, front_point

POLICIES = ("max-throughput", "min-latency", "knee", "trial=N", "trial=N:LEVEL")


@dataclass(frozen=True, slots=True)
class Rule:
    """A choice by a rule over the whole front."""

    kind: Literal["max-throughput", "min-latency", "knee"]


@dataclass(frozen=True, slots=True)
class Pick:
    """A choice by hand: a trial, at one load level or (None) at its feasible level with the highest throughput."""

    trial: int
    level: int | None


Policy = Rule | Pick

_RULE_NAMES: Mapping[str, Rule] = {
    rule.kind: rule for rule in (Rule("max-throughput"), Rule("min-latency"), Rule("knee"))
}
_TRIAL = re.compile(r"^trial=(?P<trial>\d+)(?::(?P<level>\d+))?$")


def parse_policy(text: str) -> Policy:
    """The policy that a user wrote. Raises InputError, with a suggestion, when there is no such policy."""
    match = _TRIAL.match(text)
    if match:
        return Pick(int(match["trial"]), None if match["level"] is None else int(match["level"]))
    if text in _RULE_NAMES:
        return _RULE_NAMES[text]
    close = difflib.get_close_matches(text, POLICIES, n=1)
    hint = f" did you mean {close[0]}?" if close else ""
    raise InputError(f"unknown selection {text!r};{hint} use one of: recommended, {', '.join(POLICIES)}")


def choose(front: ParetoFront, policy: Policy, trials: Sequence[Trial] = ()) -> FrontPoint:
    """The point a policy selects. With `trials`, a feasible point that is not on the front can be picked by hand.

    Raises NotFound when the front is empty or the picked trial has no such feasible load level.
    """
    if isinstance(policy, Pick):
        return _picked(front, policy, trials)
    if not front.points:
        raise NotFound("nothing to select: no load point meets the SLA; `autotune pareto` names the closest trial")
    return _RULES[policy.kind](front.points)


def _fastest(points: Sequence[FrontPoint]) -> FrontPoint:
    return points[-1]  # the front rises in throughput


def _quickest(points: Sequence[FrontPoint]) -> FrontPoint:
    return points[0]  # and so in latency


def _knee(points: Sequence[FrontPoint]) -> FrontPoint:
    """The point farthest on the good side of the chord between the extremes, in normalised (throughput, log TTFT).

    Satopaa, Albrecht, Irwin, Raghavan: Finding a "Kneedle" in a Haystack (ICDCSW 2011). Where no point is on the good
    side, the extreme with the highest throughput.
    """
    x = _normalised([point.output_throughput_per_device for point in points])
    y = _normalised([math.log(max(point.p99_ttft_ms, 1e-6)) for point in points])
    # The chord runs from (0, 0) to (1, 1): the distance to it is (x - y) / sqrt(2).
    return max(zip(x, y, points, strict=True), key=lambda item: (item[0] - item[1], item[0]))[2]


def _normalised(values: Sequence[float]) -> list[float]:
    low, span = values[0], values[-1] - values[0]
    return [(value - low) / span if span else 0.0 for value in values]


_RULES: Mapping[str, Callable[[Sequence[FrontPoint]], FrontPoint]] = {
    "max-throughput": _fastest,
    "min-latency": _quickest,
    "knee": _knee,
}


def _picked(front: ParetoFront, pick: Pick, trials: Sequence[Trial]) -> FrontPoint:
    own = [front_point(t.number, p) for t in trials if t.number == pick.trial for p in feasible_points(t)]
    own = own or [point for point in front.points if point.trial == pick.trial]
    matching = [point for point in own if pick.level in (None, point.level)]
    if matching:
        return max(matching, key=lambda point: point.output_throughput_per_device)
    if own:
        levels = ", ".join(str(point.level) for point in own)
        raise NotFound(f"trial {pick.trial} does not meet the SLA at level {pick.level}; it does at: {levels}")
    meeting = {point.trial for point in front.points} | {t.number for t in trials if feasible_points(t)}
    is_there = not trials or pick.trial in {trial.number for trial in trials}
    told = "has no load level that meets the SLA" if is_there else "does not exist"
    known = ", ".join(map(str, sorted(meeting))) or "none"
    raise NotFound(f"trial {pick.trial} {told}; trials that meet it: {known}")
