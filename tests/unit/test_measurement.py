"""Percentiles with bounds, violations and the SLA crossing, against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autotune.level_run import LevelRun, RequestRecord
from autotune.measurement import (
    clearly_violates,
    fewest_samples,
    joined,
    load_point,
    lower_rank,
    operating_point,
    pooled_figures,
    quantile,
    sla_crossing_throughput,
    straddles,
    upper_rank,
    violations,
)
from autotune.results import Load, LoadPoint
from autotune.spec import Sla

SLA = Sla(p99_ttft_ms=200)


def request(index: int = 0, *, first_s: float = 0.1, gap_s: float = 0.01, tokens: int = 5, at_s: float = 0.0):
    """A request that succeeded: the first token `first_s` after it was scheduled, then one every `gap_s`."""
    times_s = tuple(at_s + first_s + gap_s * i for i in range(tokens))
    return RequestRecord(index, at_s, at_s, times_s, times_s[-1], 10, tokens, tokens)


def failure(index: int = 0, *, seen: int = 0, tokens: int = 5):
    """A request that failed after `seen` chunks."""
    return RequestRecord(index, 0.0, 0.0, tuple(0.1 + 0.01 * i for i in range(seen)), 1.0, 10, 0, tokens, "HTTP 500")


def measured(records, sla: Sla = SLA, **changes) -> LoadPoint:
    arguments = {"level": 0, "load": Load(kind="request_rate", value=1), "devices": 1, "seed": 0, "sla": sla}
    run = records if isinstance(records, LevelRun) else LevelRun(tuple(records))
    return load_point(run, **(arguments | changes))


def point(load: float, throughput: float, violation: float) -> LoadPoint:
    """A load point of which only these three numbers matter."""
    changes = {
        "load": Load(kind="request_rate", value=load),
        "output_throughput": throughput,
        "violations": {"p99_ttft_ms": violation, "error_rate": -1.0},
    }
    return measured([request()]).model_copy(update=changes)


def test_latencies_of_one_request_are_those_of_vllm_bench_serve():
    """First token after 100 ms, then after 20, 20 and 40 ms: TPOT is 80 ms / 3."""
    record = RequestRecord(0, 1.0, 1.002, (1.1, 1.12, 1.14, 1.18), 1.18, 7, 4, 4)
    one = measured([record])
    assert one.ttft.at(50).value_ms == pytest.approx(100)
    assert one.tpot.at(50).value_ms == pytest.approx(80 / 3)
    assert one.itl.at(50).value_ms == pytest.approx(20)
    assert one.itl.at(99).value_ms == pytest.approx(40)
    assert one.e2el.at(50).value_ms == pytest.approx(180)
    assert one.client_lag_ms == pytest.approx(2)


def test_throughputs_count_from_the_start_of_the_level_to_the_last_end():
    """Two requests of 10 tokens in and 5 out; the last ends at 2 s."""
    both = measured([request(0), request(1, at_s=1.86)])
    assert both.duration_s == pytest.approx(2.0)
    assert both.request_throughput == pytest.approx(1.0)
    assert both.output_throughput == pytest.approx(5.0)
    assert both.total_token_throughput == pytest.approx(15.0)


def test_latency_counts_from_the_scheduled_time_not_from_sending():
    late = RequestRecord(0, 1.0, 1.4, (1.5,), 1.5, 10, 1, 1)
    assert measured([late]).ttft.at(99).value_ms == pytest.approx(500)


def test_a_failed_request_counts_as_infinitely_late():
    one = measured([request(0), request(1), failure(2)])
    assert (one.completed, one.failed) == (2, 1)
    assert one.ttft.count == one.tpot.count == one.e2el.count == 3
    assert one.ttft.at(50).value_ms == pytest.approx(100)
    assert one.ttft.at(99).value_ms is None
    assert one.ttft.mean_ms == pytest.approx(100)


def test_a_failed_request_lacks_all_gaps_it_did_not_show():
    """3 of 5 chunks arrived: two gaps of 10 ms were seen, two never came."""
    one = measured([failure(seen=3)])
    assert one.itl.count == 4
    assert one.itl.at(50).value_ms == pytest.approx(10)
    assert one.itl.at(90).value_ms is None
    assert one.itl.mean_ms is None


def test_answers_of_one_token_have_no_tpot_and_break_no_tpot_line():
    one = measured([request(tokens=1), failure(tokens=1)], Sla(p99_tpot_ms=1, error_rate=1))
    assert one.tpot.count == 0
    assert one.violations["p99_tpot_ms"] == -1.0
    assert one.request_goodput * one.duration_s == pytest.approx(1)


def test_goodput_counts_the_requests_that_meet_every_per_request_line():
    """The second is late at the first token, the third slow after it; the itl line is not per request."""
    records = [request(0), request(1, first_s=0.3), request(2, gap_s=0.05), failure(3)]
    one = measured(records, Sla(p99_ttft_ms=200, p99_tpot_ms=20, p50_itl_ms=1))
    assert one.duration_s == pytest.approx(1.0)
    assert one.request_goodput == pytest.approx(1.0)


def test_no_records_make_no_load_point():
    with pytest.raises(ValueError, match="at least one request record"):
        measured([])


def test_engine_counters_are_kept_with_the_point():
    assert measured([request()], engine_counters={"preemptions": 3.0}).engine == {"preemptions": 3.0}


def test_a_percentile_the_sla_names_is_measured_too():
    one = measured([request()], Sla(**{"p99.9_e2el_ms": 1000}))
    assert [q.percent for q in one.e2el.quantiles] == [50, 90, 95, 99, 99.9]


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(10, 50, 5), (10, 99, 10), (100, 99, 99), (101, 99, 100), (1000, 99.9, 999), (1, 50, 1), (20, 95, 19)],
)
def test_percentiles_are_nearest_rank(count, percent, expected):
    assert quantile([float(i) for i in range(1, count + 1)], percent).value_ms == expected


def test_an_upper_bound_of_a_p99_exists_from_299_samples_on_and_is_then_the_maximum():
    """0.99^298 is 0.0500, 0.99^299 is 0.0495: only then is the maximum above the P99 with 95 % confidence."""
    assert quantile([float(i) for i in range(298)], 99).upper_ms is None
    assert quantile([float(i) for i in range(299)], 99).upper_ms == 298.0


def test_a_lower_bound_of_a_median_exists_from_5_samples_on_and_is_then_the_minimum():
    """0.5^4 is 0.0625, 0.5^5 is 0.031."""
    assert quantile([1.0, 2.0, 3.0, 4.0], 50).lower_ms is None
    assert quantile([1.0, 2.0, 3.0, 4.0, 5.0], 50).lower_ms == 1.0


def test_the_bounds_of_the_median_of_ten_are_the_ninth_and_the_second():
    """P(B <= 1) = 11/1024 and P(B <= 2) = 56/1024 > 5 %, so rank 2; the other side mirrors it."""
    assert (lower_rank(10, 50), upper_rank(10, 50)) == (2, 9)


@pytest.mark.parametrize(
    ("requests", "may_exceed"), [(298, None), (299, 0), (500, 1), (1000, 4), (2000, 12), (5000, 38)]
)
def test_with_confidence_so_many_requests_may_exceed_a_p99_limit(requests, may_exceed):
    """The sums of the binomial distribution, as docs/measurement.md prints them."""
    spare = requests - upper_rank(requests, 99)
    assert (spare if spare >= 0 else None) == may_exceed


@pytest.mark.parametrize(
    ("percent", "confidence", "needed"),
    [(99, 0.95, 299), (99, 0.99, 459), (95, 0.95, 59), (90, 0.95, 29), (50, 0.95, 5), (99.9, 0.95, 2995), (50, 0.5, 1)],
)
def test_an_upper_bound_needs_so_many_samples(percent, confidence, needed):
    """The smallest n with 1 - (percent / 100)^n >= confidence."""
    assert fewest_samples(percent, confidence) == needed
    assert upper_rank(needed, percent, confidence) == needed
    assert upper_rank(needed - 1, percent, confidence) > needed - 1


@pytest.mark.parametrize("percent", [50.0, 95.0, 99.0])
def test_the_bounds_cover_the_true_percentile_as_often_as_they_promise(percent):
    """Of 2,000 samples of 500 each at least 95 %, less three standard errors (1.5 %)."""
    draw = np.random.default_rng(7)
    true_ms = -100 * math.log(1 - percent / 100)
    samples = np.sort(draw.exponential(100, size=(2000, 500)), axis=1)
    below = samples[:, lower_rank(500, percent) - 1] <= true_ms
    above = samples[:, upper_rank(500, percent) - 1] >= true_ms
    assert below.mean() >= 0.935
    assert above.mean() >= 0.935


def test_with_a_confidence_the_upper_bound_decides():
    """Of 500 requests the P99 is the 6th slowest and its upper bound the 2nd: two late ones are too many."""
    sure = Sla(p99_ttft_ms=200, confidence=0.95)
    two = [request(i, first_s=0.1 if i < 498 else 0.3) for i in range(500)]
    one = [request(i, first_s=0.1 if i < 499 else 0.3) for i in range(500)]
    assert measured(two).feasible
    assert measured(two, sure).violations["p99_ttft_ms"] == pytest.approx(0.405465, abs=1e-6)
    assert measured(one, sure).feasible


def test_an_upper_bound_that_does_not_exist_is_no_promise():
    found = measured([request(i) for i in range(298)], Sla(p99_ttft_ms=200, confidence=0.95))
    assert found.violations["p99_ttft_ms"] == 1.5


def test_the_stored_bounds_have_the_confidence_of_the_sla():
    """Ten samples: P(B <= 4) = 38.6 %, P(B <= 5) = 62.3 % at the median."""
    records = [request(i, first_s=0.01 * (i + 1)) for i in range(10)]
    wide = measured(records).ttft.at(50)
    narrow = measured(records, Sla(p50_ttft_ms=200, confidence=0.6)).ttft.at(50)
    assert (wide.lower_ms, wide.upper_ms) == (pytest.approx(20), pytest.approx(90))
    assert (narrow.lower_ms, narrow.upper_ms) == (pytest.approx(50), pytest.approx(60))


@settings(deadline=None)  # a stalled machine is no counterexample
@given(
    samples=st.lists(st.floats(0.001, 1e6) | st.just(math.inf), min_size=1, max_size=400),
    percent=st.sampled_from([50.0, 90.0, 95.0, 99.0]),
)
def test_bounds_bracket_the_value(samples, percent):
    found = quantile(sorted(samples), percent)
    value_ms = math.inf if found.value_ms is None else found.value_ms
    if found.lower_ms is not None:
        assert found.lower_ms <= value_ms
    if found.upper_ms is not None:
        assert found.upper_ms >= value_ms


def test_violations_are_the_log_of_value_over_limit_in_the_order_of_the_sla():
    """TTFT 100 ms against 200, E2EL 140 ms against 70, one failure in ten against one in a hundred."""
    records = [*(request(i) for i in range(9)), failure(9)]
    sla = Sla(p90_e2el_ms=70, p50_ttft_ms=200)
    found = measured(records, sla).violations
    assert list(found) == ["p50_ttft_ms", "p90_e2el_ms", "error_rate"]
    assert found["p50_ttft_ms"] == pytest.approx(-0.693147, abs=1e-6)
    assert found["p90_e2el_ms"] == pytest.approx(0.693147, abs=1e-6)
    assert found["error_rate"] == 1.5


def test_violations_are_clipped():
    one = measured([request()], Sla(p99_ttft_ms=1, p99_e2el_ms=1e6))
    assert one.violations == {"p99_ttft_ms": 1.5, "p99_e2el_ms": -1.0, "error_rate": -1.0}


def test_an_infinite_latency_violates_at_the_upper_end():
    assert measured([failure()]).violations["p99_ttft_ms"] == 1.5


def test_an_error_rate_limit_of_zero_still_has_a_scale():
    """One failure in 200 is half of the smallest scale of one in a hundred."""
    records = [*(request(i) for i in range(199)), failure(199)]
    assert measured(records, Sla(p50_ttft_ms=200, error_rate=0)).violations["error_rate"] == pytest.approx(0.5)


def test_a_point_can_be_judged_by_another_sla():
    one = measured([request()])
    assert one.feasible
    assert violations(one, Sla(p50_ttft_ms=50))["p50_ttft_ms"] == pytest.approx(0.693147, abs=1e-6)


def test_an_sla_with_a_percentile_that_was_not_measured_cannot_judge():
    with pytest.raises(KeyError):
        violations(measured([request()]), Sla(p75_ttft_ms=50))


@settings(deadline=None)  # a stalled machine is no counterexample
@given(value_s=st.floats(0.001, 10), limits=st.lists(st.floats(1, 1e5), min_size=2, max_size=2))
def test_a_larger_limit_is_never_violated_more(value_s, limits):
    one = measured([request(first_s=value_s)])
    tight, loose = (violations(one, Sla(p99_ttft_ms=limit))["p99_ttft_ms"] for limit in sorted(limits))
    assert tight >= loose
    assert (tight <= 0) == (one.ttft.at(99).value_ms <= min(limits)) or tight == pytest.approx(0, abs=1e-9)


def test_a_violation_is_clear_when_even_the_lower_bound_is_above_the_limit():
    """Of 500 samples the lower bound of the P99 is rank 491: ten late requests are clear, six are not."""
    assert lower_rank(500, 99) == 491
    ten = [request(i, first_s=0.1 if i < 490 else 0.3) for i in range(500)]
    six = [request(i, first_s=0.1 if i < 494 else 0.3) for i in range(500)]
    assert clearly_violates(measured(ten), SLA)
    assert not clearly_violates(measured(six), SLA)
    assert not measured(six).feasible


def test_missing_answers_violate_clearly():
    """Lower bound at rank 491 as above, and that request never came; the share alone would be allowed."""
    sla = Sla(p99_ttft_ms=200, error_rate=0.5)
    records = [request(i) if i < 490 else failure(i) for i in range(500)]
    assert clearly_violates(measured(records, sla), sla)


@pytest.mark.parametrize(
    ("late", "count", "is_open"),
    [
        (0, 300, False),
        (1, 300, True),
        (0, 299, False),
        (0, 298, True),
        (0, 150, True),
        (0, 149, False),
        (1, 149, False),
    ],
)
def test_a_point_straddles_when_its_upper_bound_is_above_the_limit_or_missing(late: int, count: int, is_open: bool):
    """From 299 requests on there is an upper bound; of fewer than 150 not even twice as many have one."""
    found = measured([request(i, first_s=0.3 if i < late else 0.1) for i in range(count)])
    assert straddles(found, SLA) == is_open


def test_too_few_samples_for_a_lower_bound_violate_nothing_clearly():
    sla = Sla(p50_ttft_ms=50)
    assert not clearly_violates(measured([request(i) for i in range(4)], sla), sla)
    assert clearly_violates(measured([request(i) for i in range(5)], sla), sla)


def test_an_error_share_violates_clearly_only_beyond_chance():
    """At a true share of 10 %, 20 requests have 4 failures or more in 13 % of cases and 5 or more in 4.3 %."""
    sla = Sla(p50_ttft_ms=200, error_rate=0.1)
    four = [*(request(i) for i in range(16)), *(failure(i) for i in range(16, 20))]
    five = [*(request(i) for i in range(15)), *(failure(i) for i in range(15, 20))]
    assert not clearly_violates(measured(four, sla), sla)
    assert clearly_violates(measured(five, sla), sla)


def test_joined_runs_count_as_one_longer_run():
    """Two runs of 1 s: latencies are pooled, throughput is that of 2 s."""
    slow = request(1, first_s=0.96)
    both = measured(joined(LevelRun((slow,)), LevelRun((request(0, first_s=0.86, at_s=0.1),))))
    assert both.duration_s == pytest.approx(2.0)
    assert both.output_throughput == pytest.approx(5.0)
    assert both.ttft.at(50).value_ms == pytest.approx(860)
    assert both.ttft.at(99).value_ms == pytest.approx(960)


def test_the_operating_point_is_the_feasible_one_with_the_highest_throughput():
    points = [point(1, 100, -0.5), point(2, 190, -0.2), point(4, 180, -0.1), point(8, 300, 0.4)]
    assert operating_point(points) is points[1]


def test_without_a_feasible_point_there_is_no_operating_point():
    assert operating_point([point(1, 100, 0.5)]) is None


def test_the_crossing_is_interpolated_between_the_last_good_and_the_first_bad_level():
    """From -0.2 to 0.6 the zero is a quarter of the way: 200 + (400 - 200) / 4."""
    assert sla_crossing_throughput([point(1, 100, -0.5), point(2, 200, -0.2), point(4, 400, 0.6)]) == pytest.approx(250)


def test_throughput_at_the_crossing_is_per_device():
    pair = [point(1, 200, -0.2).model_copy(update={"devices": 2}), point(2, 400, 0.6).model_copy(update={"devices": 2})]
    assert sla_crossing_throughput(pair) == pytest.approx(125)


def test_when_all_levels_are_good_the_crossing_is_the_highest_throughput():
    assert sla_crossing_throughput([point(1, 100, -0.5), point(2, 90, -0.2)]) == 100


def test_when_no_level_is_good_the_crossing_is_the_throughput_of_the_lowest():
    assert sla_crossing_throughput([point(2, 200, 0.9), point(1, 100, 0.5)]) == 100


def test_an_overloaded_level_does_not_pull_the_crossing_below_a_good_one():
    assert sla_crossing_throughput([point(1, 100, -0.5), point(2, 20, 0.5)]) == 100


def test_a_load_measured_twice_counts_as_its_worse_run():
    twice = [point(1, 100, -0.5), point(2, 200, -0.1), point(2, 180, 0.5)]
    assert operating_point(twice) is twice[0]
    assert sla_crossing_throughput(twice) == pytest.approx(140)


def test_the_order_of_the_climb_does_not_change_the_crossing():
    """Doubled to a bad level, then halved the gap: the zero is a quarter of the way from 3 to 4."""
    climbed = [point(1, 100, -0.8), point(2, 200, -0.5), point(4, 400, 0.6), point(3, 300, -0.2)]
    assert sla_crossing_throughput(climbed) == pytest.approx(325)


def test_an_invalid_level_is_no_part_of_a_ladder():
    invalid = point(4, 900, -0.9).model_copy(update={"invalid": "the client was busy"})
    assert sla_crossing_throughput([point(1, 100, -0.5), point(2, 200, -0.2), invalid]) == 200
    assert operating_point([point(1, 100, -0.5), invalid]).output_throughput == 100
    with pytest.raises(ValueError, match="at least one valid load point"):
        sla_crossing_throughput([invalid])


def test_the_throughput_of_a_level_that_ended_early_is_what_its_engine_counted():
    """800 tokens in 2 s; the few complete answers are 50 tokens/s. A quarter of the way from 200 to 400."""
    changes = {"aborted": True, "duration_s": 2.0, "engine": {"generation_tokens": 800.0}}
    ended = point(4, 50, 0.6).model_copy(update=changes)
    assert sla_crossing_throughput([point(2, 200, -0.2), ended]) == pytest.approx(250)
    assert sla_crossing_throughput([point(2, 200, -0.2), ended.model_copy(update={"aborted": False})]) == 200


def test_a_crossing_needs_points():
    with pytest.raises(ValueError, match="at least one valid load point"):
        sla_crossing_throughput([])


@settings(deadline=None)  # a stalled machine is no counterexample
@given(
    good=st.tuples(st.floats(1, 1000), st.floats(-1, 0)),
    bad=st.tuples(st.floats(1, 1000), st.floats(0, 1.5, exclude_min=True)),
)
def test_the_crossing_lies_between_its_neighbours(good, bad):
    assume(bad[0] >= good[0])
    found = sla_crossing_throughput([point(1, *good), point(2, *bad)])
    assert good[0] * (1 - 1e-9) <= found <= bad[0] * (1 + 1e-9)


def test_the_throughput_of_a_lowest_level_that_ended_early_is_what_its_engine_counted_per_device():
    """800 tokens in 2 s on two devices."""
    changes = {"aborted": True, "duration_s": 2.0, "devices": 2, "engine": {"generation_tokens": 800.0}}
    assert sla_crossing_throughput([point(1, 50, 0.6).model_copy(update=changes)]) == pytest.approx(200)


def test_the_figures_of_two_windows_are_those_of_both_together():
    """Counters add up, means are weighted by what they count, maxima are the larger, limits stay."""
    first = {"generation_tokens": 100.0, "queue_count": 10.0, "mean_queue_time_ms": 4.0, "samples": 1.0}
    first |= {"requests_running_mean": 2.0, "requests_running_max": 9.0, "max_num_seqs": 16.0, "requests_waiting": 3.0}
    second = {"generation_tokens": 300.0, "queue_count": 30.0, "mean_queue_time_ms": 8.0, "samples": 3.0}
    second |= {"requests_running_mean": 6.0, "requests_running_max": 7.0, "max_num_seqs": 16.0, "requests_waiting": 0.0}
    assert pooled_figures(first, second) == {
        "generation_tokens": 400.0,
        "queue_count": 40.0,
        "mean_queue_time_ms": 7.0,
        "samples": 4.0,
        "requests_running_mean": 5.0,
        "requests_running_max": 9.0,
        "max_num_seqs": 16.0,
        "requests_waiting": 0.0,
    }


def test_half_of_a_counter_is_no_sum():
    """The engine did not answer in the first window."""
    assert pooled_figures({"max_num_seqs": 16.0}, {"max_num_seqs": 16.0, "preemptions": 3.0}) == {"max_num_seqs": 16.0}
