"""Differences of means with their intervals, against figures worked out by hand."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.results import Difference, LoadPoint
from autotune.selection import mean_difference, paired_difference, throughput_difference

MakePoint = Callable[..., LoadPoint]

rates = st.floats(min_value=1.0, max_value=10_000.0)
samples = st.lists(rates, min_size=2, max_size=6)


def test_the_interval_of_independent_samples_is_that_of_welch():
    """Variances 100 and 400 of three values each: standard error √(500/3), 2.941 degrees of freedom, t = 3.2195."""
    found = mean_difference([90.0, 100.0, 110.0], [30.0, 50.0, 70.0])
    reach = 3.2195 * (500 / 3) ** 0.5
    assert found.value == 50.0
    assert (found.low, found.high) == pytest.approx((50 - reach, 50 + reach), abs=0.01)


def test_pairs_cancel_what_their_requests_have_in_common():
    """The differences are 9, 10 and 11: standard error 1 / √3, 2 degrees of freedom, t = 4.3027."""
    found = paired_difference([109.0, 210.0, 411.0], [100.0, 200.0, 400.0])
    reach = 4.3027 / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((10.0, 10 - reach, 10 + reach), abs=0.001)


@pytest.mark.parametrize("difference", [mean_difference, paired_difference])
def test_the_best_of_five_has_the_interval_of_ninety_nine_percent(difference: Callable[..., Difference]):
    """Degrees of freedom 2 in pairs: t = 9.9248 instead of 4.3027; 4 of equal variances: 4.6041 instead of 2.7764."""
    alone, best = (difference([109.0, 110.0, 111.0], [100.0, 102.0, 101.0], best_of=n) for n in (1, 5))
    factor = 9.9248 / 4.3027 if difference is paired_difference else 4.6041 / 2.7764
    assert (best.high - best.value) / (alone.high - alone.value) == pytest.approx(factor, abs=0.001)
    assert (alone.best_of, best.best_of) == (1, 5)


@pytest.mark.parametrize("difference", [mean_difference, paired_difference])
def test_samples_that_do_not_vary_have_an_interval_of_no_width(difference: Callable[..., object]):
    found = difference([120.0, 120.0], [100.0, 100.0])
    assert (found.value, found.low, found.high) == (20.0, 20.0, 20.0)
    assert not found.contains_zero
    assert difference([100.0, 100.0], [100.0, 100.0]).contains_zero


@pytest.mark.parametrize("difference", [mean_difference, paired_difference])
def test_a_single_value_shows_no_interval_and_leaves_the_sign_open(difference: Callable[..., object]):
    found = difference([120.0], [100.0])
    assert (found.value, found.low, found.high, found.contains_zero) == (20.0, None, None, True)


@pytest.mark.parametrize("difference", [mean_difference, paired_difference])
def test_nothing_cannot_be_compared(difference: Callable[..., object]):
    with pytest.raises(ValueError, match="values on both sides"):
        difference([], [])


def seeded(make_point: MakePoint, value: float, *throughputs: float) -> list[LoadPoint]:
    runs = [make_point(100.0, throughput, value=value) for throughput in throughputs]
    return [run.model_copy(update={"seed": seed}) for seed, run in enumerate(runs, start=1)]


def test_runs_of_the_same_requests_are_compared_in_pairs(make_point: MakePoint):
    found = throughput_difference(
        seeded(make_point, 4.0, 110.0, 210.0, 310.0), seeded(make_point, 4.0, 100.0, 200.0, 300.0)
    )
    assert (found.low, found.value, found.high) == (10.0, 10.0, 10.0)


def test_runs_at_another_load_or_of_other_seeds_are_compared_as_independent(make_point: MakePoint):
    """As pairs they would differ by 10 every time."""
    ours = seeded(make_point, 4.0, 110.0, 210.0, 310.0)
    theirs = seeded(make_point, 8.0, 100.0, 200.0, 300.0)
    other_seeds = [
        run.model_copy(update={"seed": run.seed + 7}) for run in seeded(make_point, 4.0, 100.0, 200.0, 300.0)
    ]
    assert throughput_difference(ours, theirs).contains_zero
    assert throughput_difference(ours, other_seeds).contains_zero


@given(samples, samples)
def test_an_interval_holds_its_difference_and_changes_sign_with_the_sides(ours: list[float], theirs: list[float]):
    found, turned = mean_difference(ours, theirs), mean_difference(theirs, ours)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert (turned.low, turned.value, turned.high) == pytest.approx((-found.high, -found.value, -found.low))
