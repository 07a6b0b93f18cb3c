"""When a search ends: the first limit that is reached wins and is named."""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.results import Infeasible, Interrupted, Measured, Trial
from autotune.spec import Budget

PATIENCE_AFTER = 30  # trials before patience may end a search
GAIN = 0.01  # a smaller gain of the best feasible throughput is noise


@dataclass(frozen=True, slots=True)
class Spent:
    """What the search has cost so far."""

    wall_clock_s: float
    device_s: float


def stop_reason(budget: Budget, trials: Sequence[Trial], spent: Spent) -> str | None:
    """The name of the budget line that is used up, or None.

    `trials` are the baseline and search trials in order of their number, running ones included; the baseline and
    trials that were cancelled do not count against `budget.trials`. Failed launches in a row end the search as
    `infeasible` when nothing was ever measured, else as `failures`.
    """
    if sum(trial.purpose == "search" and not trial.was_cancelled for trial in trials) >= budget.trials:
        return "trials"
    if budget.wall_clock_s is not None and spent.wall_clock_s >= budget.wall_clock_s:
        return "wall_clock_s"
    if budget.device_hours is not None and spent.device_s >= budget.device_hours * 3600:
        return "device_hours"
    if _failures_in_a_row(trials) >= budget.failures:
        return "failures" if measured_any(trials) else "infeasible"
    if _without_gain(trials) >= budget.patience and len(trials) > PATIENCE_AFTER:
        return "patience"
    return None


def measured_any(trials: Sequence[Trial]) -> bool:
    """Whether any of the trials was measured."""
    return any(isinstance(trial.result and trial.result.outcome, Measured) for trial in trials)


def was_interrupted(trial: Trial) -> bool:
    """Whether the trial ended without a verdict about its configuration."""
    return isinstance(trial.result and trial.result.outcome, Interrupted)


def occupied_s(trials: Sequence[Trial]) -> float:
    """Device-seconds that all launches of these trials have occupied."""
    return sum(trial.earlier_device_s + (trial.result.device_s if trial.result else 0.0) for trial in trials)


def _failures_in_a_row(trials: Sequence[Trial]) -> int:
    count = 0
    for trial in reversed([trial for trial in trials if trial.result is not None]):
        outcome = trial.result and trial.result.outcome
        if isinstance(outcome, Measured):
            break
        count += isinstance(outcome, Infeasible)
    return count


def _without_gain(trials: Sequence[Trial]) -> int:
    best, since = 0.0, 0
    for trial in trials:
        outcome = trial.result.outcome if trial.result else None
        if outcome is None or isinstance(outcome, Interrupted):  # nothing was learnt
            continue
        point = outcome.operating_point if isinstance(outcome, Measured) else None
        throughput = point.output_throughput_per_device if point else 0.0
        since = 0 if throughput > best * (1 + GAIN) else since + 1
        best = max(best, throughput)
    return since
