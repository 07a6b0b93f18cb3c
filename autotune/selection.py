"""Which measured load points are worth having: the Pareto front, the choice from it, and the recommendation."""

import difflib
import math
import re
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autotune.errors import InputError, NotFound
from autotune.results import (
    Comparison,
    Confirmation,
    FrontPoint,
    Infeasible,
    LoadPoint,
    Measured,
    ParetoFront,
    Recommendation,
    Trial,
)
from autotune.spec import Sla

POLICIES = ("max-throughput", "min-latency", "knee", "trial=N", "trial=N:LEVEL")
SECOND_LOOK = math.log(1.05)  # a latency 5 % over its limit; violations are log(value / limit)


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


def pareto_front(trials: Sequence[Trial], *, demoted: Collection[tuple[int, int]] = ()) -> ParetoFront:
    """The non-dominated feasible load points of all measured baseline and search trials, by rising throughput.

    Maximises output tokens/s per device, minimises P99 TTFT (ms). Confirmations judge the front and are no part of it:
    `demoted` names the points, as (trial, level), whose re-runs did not keep the SLA, and they are left out with those
    whose P99 never came. Of equal points the one of the lowest trial number stays.
    """
    measured = [_front_point(trial.number, point) for trial in trials for point in _feasible_points(trial)]
    points = [point for point in measured if (point.trial, point.level) not in demoted]
    points.sort(key=lambda p: (-p.output_throughput_per_device, p.p99_ttft_ms, p.trial, p.level))
    front: list[FrontPoint] = []
    for point in points:
        if not front or point.p99_ttft_ms < front[-1].p99_ttft_ms:
            front.append(point)
    return ParetoFront(points=tuple(reversed(front)))


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


def compare(candidate: LoadPoint, baseline: LoadPoint | None) -> Comparison:
    """A candidate's operating point against the baseline's, as ratios; None where the baseline has no number."""
    if baseline is None:
        return Comparison(throughput_ratio=None, p99_ttft_ratio=None)
    return Comparison(
        throughput_ratio=_ratio(candidate.output_throughput_per_device, baseline.output_throughput_per_device),
        p99_ttft_ratio=_ratio(candidate.p99_ttft_ms, baseline.p99_ttft_ms),
    )


def candidates(trials: Sequence[Trial], count: int) -> tuple[Trial, ...]:
    """The search trials to measure again: the best by throughput per device at their operating point.

    When fewer than `count` meet the SLA, those that miss it by up to 5 % follow, the closest first: they may have been
    unlucky. The baseline is measured again anyway and is not among them.
    """
    measured = [(trial, m) for trial in trials if trial.purpose == "search" and (m := _measured(trial)) is not None]
    feasible = [(trial, point) for trial, m in measured if (point := m.operating_point) is not None]
    feasible.sort(key=lambda pair: (-pair[1].output_throughput_per_device, pair[0].number))
    missed = [(trial, _worst(m.closest_point)) for trial, m in measured if m.operating_point is None]
    close = sorted((pair for pair in missed if pair[1] <= SECOND_LOOK), key=lambda pair: (pair[1], pair[0].number))
    return tuple(trial for trial, _ in [*feasible, *close])[:count]


def recommend(
    trials: Sequence[Trial], confirmations: Sequence[Confirmation], sla: Sla, *, broken: Collection[int] = ()
) -> Recommendation:
    """The configuration to run, with its reason in one sentence.

    With re-runs, those that hold the SLA are ranked by their mean throughput per device, the baseline among them;
    without, the best observed operating point is named as unconfirmed. Otherwise the closest trial is named. `broken`
    are the trials whose configuration did not start again: nobody wants one of those.
    """
    if confirmations:
        return _from_reruns(trials, confirmations, sla)
    observed = [(trial, point) for trial in _searched(trials) if (point := _operating_point(trial)) is not None]
    unbroken = [pair for pair in observed if pair[0].number not in broken]
    if not observed:
        return _nothing_feasible(trials, sla)
    if not unbroken:
        return _nothing_starts_again(sorted(broken))
    trial, point = min(unbroken, key=lambda pair: (-pair[1].output_throughput_per_device, pair[0].number))
    return _from_observation(trials, trial, point, sla)


def _nothing_starts_again(broken: Sequence[int]) -> Recommendation:
    numbers = ", ".join(map(str, broken))
    reason = (
        f"what met the SLA did not start again when it was to be confirmed (trials {numbers}): the machine is not what "
        "it was during the search, see why the re-runs failed in `autotune trials`"
    )
    return Recommendation(trial=None, level=None, reason=reason)


# The points of a trial


def _measured(trial: Trial) -> Measured | None:
    outcome = trial.result.outcome if trial.result else None
    return outcome if isinstance(outcome, Measured) else None


def _searched(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.purpose != "confirmation"]


def _operating_point(trial: Trial) -> LoadPoint | None:
    measured = _measured(trial)
    return measured.operating_point if measured else None


def _feasible_points(trial: Trial) -> Iterator[LoadPoint]:
    """Feasible points; of a load that was measured twice the worse run counts, so that a lucky one proves nothing."""
    measured = _measured(trial)
    if measured is None or trial.purpose == "confirmation":
        return
    judged: dict[tuple[str, float], LoadPoint] = {}
    for point in measured.points:
        key = (point.load.kind, point.load.value)
        if key not in judged or _worst(point) > _worst(judged[key]):
            judged[key] = point
    yield from (point for point in judged.values() if point.feasible and point.p99_ttft_ms is not None)


def _front_point(trial: int, point: LoadPoint) -> FrontPoint:
    assert point.p99_ttft_ms is not None
    return FrontPoint(
        trial=trial,
        level=point.level,
        load=point.load,
        output_throughput_per_device=point.output_throughput_per_device,
        p99_ttft_ms=point.p99_ttft_ms,
        request_throughput=point.request_throughput,
    )


def _worst(point: LoadPoint) -> float:
    return max(point.violations.values(), default=0.0)


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


# Policies


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
    own = [_front_point(t.number, p) for t in trials if t.number == pick.trial for p in _feasible_points(t)]
    own = own or [point for point in front.points if point.trial == pick.trial]
    matching = [point for point in own if pick.level in (None, point.level)]
    if matching:
        return max(matching, key=lambda point: point.output_throughput_per_device)
    if own:
        levels = ", ".join(str(point.level) for point in own)
        raise NotFound(f"trial {pick.trial} does not meet the SLA at level {pick.level}; it does at: {levels}")
    known = ", ".join(map(str, sorted({point.trial for point in front.points}))) or "none"
    raise NotFound(f"trial {pick.trial} has no load level that meets the SLA; trials on the front: {known}")


# The recommendation


def _from_reruns(trials: Sequence[Trial], confirmations: Sequence[Confirmation], sla: Sla) -> Recommendation:
    by_number = {trial.number: trial for trial in trials}
    base = next((c for c in confirmations if by_number[c.trial].purpose == "baseline"), None)
    holding = sorted((c for c in confirmations if c.holds), key=lambda c: (-c.output_throughput_per_device, c.trial))
    demoted = _demoted([c for c in confirmations if not c.holds])
    if not holding:
        closest = min(confirmations, key=lambda c: max(map(_worst, c.runs)))
        reason = f"nothing holds the SLA when measured again; the closest was trial {closest.trial}: "
        return Recommendation(
            trial=None, level=None, reason=reason + _miss_of_runs(closest, sla), closest_trial=closest.trial
        )
    best = holding[0]
    parts = [f"confirmed by {_count(best.runs)}: {_summary(best.runs, sla)} at {best.load}", *demoted]
    return Recommendation(
        trial=best.trial,
        level=_level(by_number[best.trial], best),
        reason="; ".join([*parts, _gain(best, holding, base)]),
        confirmed=True,
        versus_baseline=_versus(best, base),
    )


def _from_observation(trials: Sequence[Trial], best: Trial, point: LoadPoint, sla: Sla) -> Recommendation:
    base = next((_operating_point(trial) for trial in reversed(trials) if trial.purpose == "baseline"), None)
    comparison = compare(point, base)
    parts = [f"best observed, not confirmed by re-runs: {_summary([point], sla)} at {point.load}"]
    if best.purpose == "baseline":
        parts.append("no clear gain over the baseline: no other configuration was faster")
    elif comparison.throughput_ratio is None:
        parts.append("the baseline meets the SLA at no measured load")
    else:
        assert base is not None
        parts.append(f"baseline {base.output_throughput_per_device:.0f} tok/s ({comparison.throughput_ratio:.2f}×)")
    return Recommendation(
        trial=best.number, level=point.level, reason="; ".join(parts), confirmed=False, versus_baseline=comparison
    )


def _nothing_feasible(trials: Sequence[Trial], sla: Sla) -> Recommendation:
    measured = [(trial, m.closest_point) for trial in _searched(trials) if (m := _measured(trial)) is not None]
    if not measured:
        return Recommendation(trial=None, level=None, reason=f"no trial could be measured{_last_cause(trials)}")
    trial, point = min(measured, key=lambda pair: (_worst(pair[1]), pair[0].number))
    reason = f"nothing meets the SLA; the closest was trial {trial.number}: {_miss(point, sla)}"
    return Recommendation(trial=None, level=None, reason=reason, closest_trial=trial.number)


def _last_cause(trials: Sequence[Trial]) -> str:
    outcomes = [trial.result.outcome for trial in trials if trial.result]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Infeasible)]
    return f"; {len(failed)} could not run, the last because: {failed[-1].evidence.cause}" if failed else ""


def _gain(best: Confirmation, holding: Sequence[Confirmation], base: Confirmation | None) -> str:
    """How the best compares with the baseline: a clear gain is one that no re-run of the baseline reaches."""
    if base is None:
        return "the baseline was not measured again"
    if best is base:
        others = [c for c in holding if c is not base]
        told = f"trial {others[0].trial} reached {others[0].output_throughput_per_device:.0f} tok/s" if others else ""
        return "no clear gain over the baseline: " + (told or "no other candidate held the SLA")
    if not base.holds:
        return f"the baseline does not hold the SLA at {base.load}"
    told = f"baseline {base.output_throughput_per_device:.0f} tok/s ({_throughput_ratio(best, base):.2f}×)"
    slowest = min(run.output_throughput_per_device for run in best.runs)
    reached = max(run.output_throughput_per_device for run in base.runs)
    return told if slowest > reached else f"no clear gain over the baseline, whose re-runs are as good: {told}"


def _throughput_ratio(best: Confirmation, base: Confirmation) -> float:
    return _ratio(best.output_throughput_per_device, base.output_throughput_per_device) or math.inf


def _versus(best: Confirmation, base: Confirmation | None) -> Comparison:
    if base is None or not base.holds:
        return Comparison(throughput_ratio=None, p99_ttft_ratio=None)
    return Comparison(
        throughput_ratio=_ratio(best.output_throughput_per_device, base.output_throughput_per_device),
        p99_ttft_ratio=_ratio(best.p99_ttft_ms, base.p99_ttft_ms),
    )


def _level(trial: Trial, confirmation: Confirmation) -> int | None:
    measured = _measured(trial)
    return next((p.level for p in measured.points if p.load == confirmation.load), None) if measured else None


def _demoted(failed: Sequence[Confirmation]) -> list[str]:
    numbers = [str(c.trial) for c in failed]
    if not numbers:
        return []
    who = f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {', '.join(numbers)}"
    return [f"{who} did not hold the SLA when measured again"]


# Numbers in words


def _count(runs: Sequence[LoadPoint]) -> str:
    return f"{len(runs)} re-run" + ("" if len(runs) == 1 else "s")


def _summary(runs: Sequence[LoadPoint], sla: Sla) -> str:
    """Throughput and every latency line of the SLA, each the mean over the runs."""
    throughput = statistics.fmean(run.output_throughput_per_device for run in runs)
    lines = []
    for line in sla.latency_limits:
        values = [_value_ms(run, line.name, sla) for run in runs]
        known = [value for value in values if value is not None]
        if known:
            lines.append(f"{_title(line.name)} {statistics.fmean(known):.0f} ms ≤ {line.limit_ms:g} ms")
    return ", ".join([f"{throughput:.0f} tok/s per device", *lines])


def _miss_of_runs(confirmation: Confirmation, sla: Sla) -> str:
    return _miss(max(confirmation.runs, key=_worst), sla)


def _miss(point: LoadPoint, sla: Sla) -> str:
    """The line of the SLA that is missed most, in its own unit."""
    name = max(point.violations, key=lambda key: point.violations[key])
    limits = {line.name: line.limit_ms for line in sla.latency_limits}
    if name not in limits:
        share = point.failed / max(1, point.completed + point.failed)
        return f"{share:.1%} of the requests failed at {point.load}, limit {sla.error_rate:.1%}"
    value_ms = _value_ms(point, name, sla)
    told = "beyond every answer, because too many requests failed," if value_ms is None else f"{value_ms:.0f} ms"
    return f"{_title(name)} {told} at {point.load}, limit {limits[name]:g} ms"


def _value_ms(point: LoadPoint, name: str, sla: Sla) -> float | None:
    line = next(line for line in sla.latency_limits if line.name == name)
    latency = {"ttft": point.ttft, "tpot": point.tpot, "itl": point.itl, "e2el": point.e2el}[line.metric]
    return latency.at(line.percent).value_ms


def _title(name: str) -> str:
    """`p99_ttft_ms` as people say it: P99 TTFT."""
    return name.removesuffix("_ms").replace("_", " ").upper()
