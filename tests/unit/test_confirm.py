"""Re-runs keep the SLA when mean plus one standard error of every line is within its limit."""

from collections.abc import Callable

import pytest

from autotune.measurement import quantile
from autotune.results import Latency, LoadPoint, Trial
from autotune.spec import Sla
from autotune.tuner.confirm import confirmed, judge, judged_lines

SLA = Sla.model_validate({"p99_ttft_ms": 200})

MakePoint = Callable[..., LoadPoint]


def test_runs_well_within_the_limit_hold(make_point: MakePoint):
    assert judge(4, [make_point(100.0), make_point(110.0), make_point(105.0)], SLA).holds


def test_the_standard_error_is_added_to_the_mean(make_point: MakePoint):
    """Mean 190, standard deviation 10·√3, standard error 10: 200 holds, a hair more does not."""
    spread = 3**0.5 * 10
    assert judge(4, [make_point(190 - spread), make_point(190.0), make_point(190 + spread - 1e-6)], SLA).holds
    assert not judge(4, [make_point(190 - spread), make_point(190.1), make_point(190 + spread)], SLA).holds


def test_one_bad_run_among_good_ones_can_break_the_promise(make_point: MakePoint):
    """Mean 170, standard error 70."""
    assert not judge(4, [make_point(100.0), make_point(100.0), make_point(310.0)], SLA).holds


def test_a_mean_within_the_limit_is_not_enough(make_point: MakePoint):
    """Mean 195, standard error 25."""
    assert not judge(4, [make_point(170.0), make_point(220.0)], SLA).holds


def test_one_run_is_judged_by_itself(make_point: MakePoint):
    assert judge(4, [make_point(200.0)], SLA).holds
    assert not judge(4, [make_point(200.1)], SLA).holds


def test_each_line_tells_its_mean_its_bounds_over_the_runs_and_what_decides(make_point: MakePoint):
    """Mean 195, standard error 25; the bounds of these points are their values."""
    late, failed = judged_lines([make_point(170.0), make_point(220.0, failed=6)], SLA)
    assert (late.name, late.mean, late.lower, late.upper, late.limit) == ("p99_ttft_ms", 195.0, 170.0, 220.0, 200.0)
    assert (late.decides, late.holds) == (pytest.approx(220.0), False)
    assert (failed.name, failed.mean, failed.limit) == ("error_rate", 0.01, 0.01)
    assert (failed.decides, failed.holds) == (pytest.approx(0.02), False)


def test_a_line_that_never_came_in_one_run_has_no_figures(make_point: MakePoint):
    late, _ = judged_lines([make_point(100.0), make_point(None)], SLA)
    assert (late.mean, late.upper, late.decides, late.holds) == (None, None, None, False)


def test_a_run_without_a_p99_does_not_hold_and_leaves_no_number(make_point: MakePoint):
    told = judge(4, [make_point(100.0), make_point(None, failed=1)], Sla.model_validate({"p99_ttft_ms": 900}))
    assert (told.holds, told.p99_ttft_ms) == (False, None)


def test_failed_requests_count_against_the_error_rate(make_point: MakePoint):
    """3 of 300 in every run is 1 %, the limit; 6 of 300 is 2 %."""
    assert judge(4, [make_point(100.0, failed=3)] * 2, SLA).holds
    assert not judge(4, [make_point(100.0, failed=6)] * 2, SLA).holds


@pytest.mark.parametrize(("limit_ms", "holds"), [(10.0, True), (9.9, False)])
def test_every_line_of_the_sla_is_judged(limit_ms: float, holds: bool, make_point: MakePoint):
    """The TPOT of every run is 10 ms."""
    sla = Sla.model_validate({"p99_ttft_ms": 200, "p99_tpot_ms": limit_ms})
    assert judge(4, [make_point(100.0)] * 3, sla).holds is holds


def test_a_line_about_something_that_cannot_be_late_is_met(make_point: MakePoint):
    """Answers of one token have no time per output token."""
    nothing = Latency(count=0, mean_ms=None, quantiles=(quantile([], 99),))
    runs = [make_point(100.0).model_copy(update={"tpot": nothing})] * 2
    assert judge(4, runs, Sla.model_validate({"p99_tpot_ms": 5})).holds


def test_the_confirmation_reports_mean_throughput_and_worst_latency(make_point: MakePoint):
    told = judge(4, [make_point(100.0, 480.0), make_point(140.0, 520.0)], SLA)
    assert (told.trial, told.output_throughput_per_device, told.p99_ttft_ms) == (4, 500.0, 140.0)


def test_the_runs_and_their_load_are_kept(make_point: MakePoint):
    runs = [make_point(100.0, value=16.0), make_point(120.0, value=16.0)]
    told = judge(4, runs, SLA)
    assert (list(told.runs), told.load.value) == (runs, 16.0)


def test_only_re_runs_that_were_measured_say_something(make_point: MakePoint, make_trial: Callable[..., Trial]):
    again = {"purpose": "confirmation", "confirms": 2}
    rows = [
        make_trial(2, {}, make_point(100.0)),
        make_trial(3, {}, make_point(150.0), make_point(160.0), **again),
        make_trial(4, {}, oom=True, **again),
        make_trial(5, {}, **again),
    ]
    (told,) = confirmed(rows, SLA)
    assert (told.trial, told.p99_ttft_ms) == (2, 160.0)


# Re-runs that prove nothing, and bounds


def test_a_run_in_which_the_load_generator_was_the_bottleneck_is_left_out(
    make_point: MakePoint, make_trial: Callable[..., Trial]
):
    late = make_point(900.0, 100.0).model_copy(update={"invalid": "the client was late"})
    row = make_trial(3, {}, make_point(150.0, 480.0), late, purpose="confirmation", confirms=2)
    (told,) = confirmed([row], SLA)
    assert (told.holds, told.output_throughput_per_device, len(told.runs)) == (True, 480.0, 1)


def test_a_candidate_without_a_valid_run_is_not_confirmed(make_point: MakePoint, make_trial: Callable[..., Trial]):
    late = make_point(100.0).model_copy(update={"invalid": "the client was late"})
    assert confirmed([make_trial(3, {}, late, purpose="confirmation", confirms=2)], SLA) == ()


def with_bound(point: LoadPoint, upper_ms: float | None) -> LoadPoint:
    bounded = tuple(q.model_copy(update={"upper_ms": upper_ms}) for q in point.ttft.quantiles)
    return point.model_copy(update={"ttft": point.ttft.model_copy(update={"quantiles": bounded})})


@pytest.mark.parametrize(("upper_ms", "holds"), [(200.0, True), (201.0, False), (None, False)])
def test_with_a_confidence_the_upper_bounds_decide(upper_ms: float | None, holds: bool, make_point: MakePoint):
    """The P99 of every run is 100 ms, and only its bound may be beyond the limit of 200 ms."""
    runs = [with_bound(make_point(100.0), upper_ms)] * 3
    assert judge(4, runs, SLA).holds
    assert judge(4, runs, Sla.model_validate({"p99_ttft_ms": 200, "confidence": 0.95})).holds is holds
