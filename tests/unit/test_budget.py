"""Budgets: the first limit that is reached wins and is named."""

from collections.abc import Callable
from typing import Any

import pytest

from autotune.results import Evidence, FailureClass, Interrupted, LoadPoint, Timings, Trial, TrialResult
from autotune.spec import Budget
from autotune.tuner.budget import Spent, occupied_s, stop_reason

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]

NOTHING = Spent(wall_clock_s=0.0, device_s=0.0)


def interrupted(failure: FailureClass) -> TrialResult:
    return TrialResult(
        outcome=Interrupted(evidence=Evidence(failure=failure, signature=None, cause="It ended.", advice=""))
    )


def took(total_s: float, *, wait_s: float = 0.0, devices: int = 1, result: TrialResult) -> TrialResult:
    timings = Timings(total_s=total_s, wait_s=wait_s)
    return result.model_copy(update={"timings": timings, "devices": ("0", "1", "2", "3")[:devices]})


def test_a_search_goes_on_while_no_limit_is_reached(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point()) for n in range(3)]
    assert stop_reason(Budget(trials=3), trials, Spent(wall_clock_s=1.0, device_s=1.0)) is None


def test_a_job_without_a_trial_goes_on() -> None:
    assert stop_reason(Budget(trials=1), [], NOTHING) is None


# Trials


def test_the_baseline_does_not_count_as_a_trial(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point()) for n in range(4)]
    assert stop_reason(Budget(trials=3), trials, NOTHING) == "trials"
    assert stop_reason(Budget(trials=4), trials, NOTHING) is None


def test_a_running_trial_counts(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, make_point()), make_trial(1, {})]
    assert stop_reason(Budget(trials=1), trials, NOTHING) == "trials"


def test_a_trial_that_could_not_launch_counts(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, make_point()), make_trial(1, {}, oom=True)]
    assert stop_reason(Budget(trials=1), trials, NOTHING) == "trials"


def test_a_trial_that_was_cancelled_with_its_job_does_not_count(make_trial: MakeTrial, make_point: MakePoint) -> None:
    cancelled = make_trial(1, {}, result=interrupted(FailureClass.CANCELLED))
    assert cancelled.was_cancelled
    assert stop_reason(Budget(trials=1), [make_trial(0, {}, make_point()), cancelled], NOTHING) is None


@pytest.mark.parametrize("failure", [f for f in FailureClass if f is not FailureClass.CANCELLED])
def test_every_other_interruption_counts(failure: FailureClass, make_trial: MakeTrial, make_point: MakePoint) -> None:
    lost = make_trial(1, {}, result=interrupted(failure))
    assert not lost.was_cancelled
    assert stop_reason(Budget(trials=1), [make_trial(0, {}, make_point()), lost], NOTHING) == "trials"


# Time


def test_the_wall_clock_ends_a_search() -> None:
    budget = Budget(trials=1, wall_clock_s=60)
    assert stop_reason(budget, [], Spent(wall_clock_s=59.9, device_s=0.0)) is None
    assert stop_reason(budget, [], Spent(wall_clock_s=60.0, device_s=0.0)) == "wall_clock_s"


def test_the_device_hours_end_a_search() -> None:
    """Half an hour is 1800 device-seconds."""
    budget = Budget(trials=1, device_hours=0.5)
    assert stop_reason(budget, [], Spent(wall_clock_s=0.0, device_s=1799.9)) is None
    assert stop_reason(budget, [], Spent(wall_clock_s=0.0, device_s=1800.0)) == "device_hours"


def test_a_launch_occupies_its_devices_from_their_locks_on(make_trial: MakeTrial, make_point: MakePoint) -> None:
    """(100 - 40) s on two devices."""
    base = make_trial(0, {}, make_point())
    assert base.result is not None
    trial = base.model_copy(update={"result": took(100.0, wait_s=40.0, devices=2, result=base.result)})
    assert occupied_s([trial]) == 120.0


def test_the_launches_before_the_last_one_occupied_devices_too(make_trial: MakeTrial, make_point: MakePoint) -> None:
    base = make_trial(0, {}, make_point(), earlier_device_s=70.0, attempts=2)
    assert base.result is not None
    ended = base.model_copy(update={"result": took(30.0, result=base.result)})
    running = make_trial(1, {}, earlier_device_s=5.0, attempts=2)
    assert occupied_s([ended, running]) == 105.0


# Failures


def test_failed_launches_in_a_row_end_the_search(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, make_point()), make_trial(1, {}, oom=True), make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, NOTHING) == "failures"


def test_where_nothing_was_ever_measured_the_space_is_infeasible(make_trial: MakeTrial) -> None:
    trials = [make_trial(n, {}, oom=True) for n in range(2)]
    assert stop_reason(Budget(failures=2), trials, NOTHING) == "infeasible"


def test_a_success_between_failures_resets_their_count(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, oom=True), make_trial(1, {}, make_point()), make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, NOTHING) is None


def test_a_measured_trial_is_a_success_even_if_it_misses_the_sla(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, oom=True), make_trial(1, {}, make_point(900.0)), make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, NOTHING) is None


def test_an_interruption_neither_counts_as_a_failed_launch_nor_as_a_success(make_trial: MakeTrial) -> None:
    lost = make_trial(1, {}, result=interrupted(FailureClass.NODE))
    trials = [make_trial(0, {}, oom=True), lost, make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, NOTHING) == "infeasible"
    assert stop_reason(Budget(failures=3), trials, NOTHING) is None


def test_a_running_trial_does_not_hide_the_failures_before_it(make_trial: MakeTrial) -> None:
    trials = [make_trial(0, {}, oom=True), make_trial(1, {}, oom=True), make_trial(2, {})]
    assert stop_reason(Budget(failures=2), trials, NOTHING) == "infeasible"


# Patience


def level_run(make_trial: MakeTrial, make_point: MakePoint, count: int) -> list[Trial]:
    """The baseline and search trials that are all alike."""
    return [make_trial(n, {}, make_point(100.0, 500.0)) for n in range(count)]


def test_patience_ends_a_long_search_without_gain(make_trial: MakeTrial, make_point: MakePoint) -> None:
    assert stop_reason(Budget(trials=100), level_run(make_trial, make_point, 31), NOTHING) == "patience"


def test_patience_is_not_asked_before_thirty_search_trials(make_trial: MakeTrial, make_point: MakePoint) -> None:
    assert stop_reason(Budget(trials=100), level_run(make_trial, make_point, 30), NOTHING) is None


@pytest.mark.parametrize(("throughput", "reason"), [(506.0, None), (504.9, "patience")])
def test_a_gain_of_more_than_a_hundredth_renews_patience(
    throughput: float, reason: str | None, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trials = [*level_run(make_trial, make_point, 30), make_trial(30, {}, make_point(100.0, throughput))]
    assert stop_reason(Budget(trials=100), trials, NOTHING) == reason


def test_a_faster_trial_that_violates_the_sla_is_no_gain(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [*level_run(make_trial, make_point, 30), make_trial(30, {}, make_point(300.0, 900.0))]
    assert stop_reason(Budget(trials=100), trials, NOTHING) == "patience"


def test_a_trial_that_still_runs_may_bring_a_gain(make_trial: MakeTrial, make_point: MakePoint) -> None:
    """Without it 15 of 31 trials brought none: the last gain was trial 16."""
    gains = [make_trial(n, {}, make_point(100.0, 500.0 + 10 * n)) for n in range(17)]
    flat = [make_trial(n, {}, make_point(100.0, 500.0)) for n in range(17, 31)]
    assert stop_reason(Budget(trials=100), [*gains, *flat, make_trial(31, {})], NOTHING) is None
    ended = make_trial(31, {}, make_point(100.0, 500.0))
    assert stop_reason(Budget(trials=100), [*gains, *flat, ended], NOTHING) == "patience"


# Several at once


def test_of_several_limits_the_first_in_the_budgets_order_is_named(
    make_trial: MakeTrial, make_point: MakePoint
) -> None:
    spent = Spent(wall_clock_s=1e6, device_s=1e6)
    everything: dict[str, Any] = {"wall_clock_s": 1, "device_hours": 0.1, "failures": 1}
    trials = [make_trial(0, {}, make_point()), make_trial(1, {}, oom=True)]
    assert stop_reason(Budget(trials=1, **everything), trials, spent) == "trials"
    assert stop_reason(Budget(trials=9, **everything), trials, spent) == "wall_clock_s"
    assert stop_reason(Budget(trials=9, **{**everything, "wall_clock_s": None}), trials, spent) == "device_hours"
