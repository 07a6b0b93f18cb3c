"""Budgets: the first limit that is reached wins and is named."""

from collections.abc import Callable

from autotune.results import LoadPoint, Trial
from autotune.spec import Budget
from autotune.tuner.budget import stop_reason

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


def test_a_search_goes_on_while_no_limit_is_reached(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point()) for n in range(3)]
    assert stop_reason(Budget(trials=3), trials, elapsed_s=1.0) is None


def test_the_baseline_does_not_count_as_a_trial(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point()) for n in range(4)]
    assert stop_reason(Budget(trials=3), trials, elapsed_s=1.0) == "trials"


def test_the_wall_clock_ends_a_search() -> None:
    assert stop_reason(Budget(trials=1, wall_clock_s=60), [], elapsed_s=60.0) == "wall_clock_s"


def test_failed_launches_in_a_row_end_the_search(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, make_point()), make_trial(1, {}, oom=True), make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, elapsed_s=0) == "failures"


def test_a_success_between_failures_resets_their_count(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(0, {}, oom=True), make_trial(1, {}, make_point()), make_trial(2, {}, oom=True)]
    assert stop_reason(Budget(failures=2), trials, elapsed_s=0) is None


def test_patience_ends_a_long_search_without_gain(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point(100.0, 500.0)) for n in range(31)]
    assert stop_reason(Budget(trials=100), trials, elapsed_s=0) == "patience"


def test_a_gain_of_more_than_a_hundredth_renews_patience(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point(100.0, 500.0)) for n in range(30)]
    trials.append(make_trial(30, {}, make_point(100.0, 506.0)))
    assert stop_reason(Budget(trials=100), trials, elapsed_s=0) is None


def test_a_faster_trial_that_violates_the_sla_is_no_gain(make_trial: MakeTrial, make_point: MakePoint) -> None:
    trials = [make_trial(n, {}, make_point(100.0, 500.0)) for n in range(30)]
    trials.append(make_trial(30, {}, make_point(300.0, 900.0)))
    assert stop_reason(Budget(trials=100), trials, elapsed_s=0) == "patience"
