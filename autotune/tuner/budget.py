"""When a search ends: the first limit that is reached wins and is named."""

from collections.abc import Sequence

from autotune.results import Infeasible, Measured, Trial
from autotune.spec import Budget

PATIENCE_AFTER = 30  # trials before patience may end a search
GAIN = 0.01  # a smaller gain of the best feasible throughput is noise


def stop_reason(budget: Budget, trials: Sequence[Trial], *, elapsed_s: float) -> str | None:
    """The name of the budget line that is used up, or None.

    `trials` are the baseline and search trials in order of their number, running ones included; the baseline does
    not count against `budget.trials`.
    """
    if sum(trial.purpose == "search" for trial in trials) >= budget.trials:
        return "trials"
    if budget.wall_clock_s is not None and elapsed_s >= budget.wall_clock_s:
        return "wall_clock_s"
    if budget.failures is not None and _failures_in_a_row(trials) >= budget.failures:
        return "failures"
    if _without_gain(trials) >= budget.patience and len(trials) > PATIENCE_AFTER:
        return "patience"
    return None


def _failures_in_a_row(trials: Sequence[Trial]) -> int:
    count = 0
    for trial in reversed([trial for trial in trials if trial.result is not None]):
        if not isinstance(trial.result and trial.result.outcome, Infeasible):
            break
        count += 1
    return count


def _without_gain(trials: Sequence[Trial]) -> int:
    best, since = 0.0, 0
    for trial in trials:
        if trial.result is None:
            continue
        outcome = trial.result.outcome
        point = outcome.operating_point if isinstance(outcome, Measured) else None
        throughput = point.output_throughput_per_device if point else 0.0
        since = 0 if throughput > best * (1 + GAIN) else since + 1
        best = max(best, throughput)
    return since
