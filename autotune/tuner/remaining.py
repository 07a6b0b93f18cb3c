"""How long a search may still take by each line of its budget: an estimate from what it has cost so far."""

from collections.abc import Mapping, Sequence

from autotune.results import Trial
from autotune.spec import Budget
from autotune.tuner.budget import occupied_s


def time_left(budget: Budget, trials: Sequence[Trial], worked_s: float) -> Mapping[str, float]:
    """Seconds until each line of the budget is used up at the mean pace so far; the smallest ends the search.

    `worked_s` are the seconds of search. Lines without a limit, and those whose pace is not known yet, are left out.
    The confirmation that follows is not counted, and patience may end the search earlier.
    """
    searched = [trial for trial in trials if trial.is_searched]
    ended = [trial for trial in searched if trial.result is not None and not trial.was_cancelled]
    left: dict[str, float] = {}
    if ended and worked_s > 0:
        done = sum(trial.purpose == "search" for trial in ended)
        left["trials"] = max(0, budget.trials - done) * worked_s / len(ended)
    if budget.wall_clock_s is not None:
        left["wall_clock_s"] = max(0.0, budget.wall_clock_s - worked_s)
    occupied = occupied_s(searched)
    if budget.device_hours is not None and occupied > 0 and worked_s > 0:
        left["device_hours"] = max(0.0, budget.device_hours * 3600 - occupied) * worked_s / occupied
    return left


def confirmation_left_s(trials: Sequence[Trial], launches: int) -> float | None:
    """Seconds that so many more launches of a confirmation take, one after the other; None: none has ended yet."""
    took = [
        (trial.finished_at - trial.started_at).total_seconds()
        for trial in trials
        if trial.confirms is not None and trial.finished_at is not None
    ]
    return launches * sum(took) / len(took) if took else None
