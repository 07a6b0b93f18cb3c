"""Where the points of the plot on the job page lie, and how each looks."""

from collections.abc import Callable

import pytest

from autotune.results import Confirmation, JobResult, LoadPoint, ParetoFront, Recommendation, Trial
from autotune.selection import pareto_front
from autotune.service.pages.scatter import Scatter, scatter
from autotune.spec import Sla

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]

SLA = Sla.model_validate({"p99_ttft_ms": 200})


def drawn(trials: list[Trial], sla: Sla = SLA, result: JobResult | None = None) -> Scatter:
    found = scatter(trials, pareto_front(trials), sla, result)
    assert found is not None
    return found


def test_throughput_grows_to_the_right_and_latency_upwards_by_its_logarithm(
    make_trial: MakeTrial, make_point: MakePoint
):
    """10, 100 and 1000 ms are equally far apart; the limit of 100 ms lies on the middle one."""
    trials = [
        make_trial(n, {}, make_point(ms, tok_s)) for n, (ms, tok_s) in enumerate([(10, 100), (100, 200), (1000, 300)])
    ]
    plot = drawn(trials, Sla.model_validate({"p99_ttft_ms": 100}))
    low, middle, high = sorted(plot.spots, key=lambda spot: spot.x)
    assert 0 < high.y < middle.y < low.y < 100
    assert middle.y - high.y == pytest.approx(low.y - middle.y, abs=0.02)
    assert middle.x - low.x == pytest.approx(high.x - middle.x, abs=0.02)
    assert plot.limit is not None
    assert (plot.limit.at, plot.limit.text) == (middle.y, "SLA 100 ms")


def test_the_grid_has_round_values(make_trial: MakeTrial, make_point: MakePoint):
    plot = drawn([make_trial(0, {}, make_point(20.0, 500.0)), make_trial(1, {}, make_point(90.0, 2900.0))])
    assert [tick.text for tick in plot.x_ticks] == ["0", "1,000", "2,000", "3,000"]
    assert [tick.text for tick in plot.y_ticks] == ["20", "50", "100", "200"]


@pytest.mark.parametrize("throughput", [0.0, 0.003, 12.0, 4e6])
def test_a_single_point_of_any_size_has_axes(make_trial: MakeTrial, make_point: MakePoint, throughput: float):
    plot = drawn([make_trial(0, {}, make_point(150.0, throughput))])
    assert 0 <= plot.spots[0].x <= 100
    assert len(plot.x_ticks) >= 2
    assert all(0 <= tick.at <= 100 for tick in (*plot.x_ticks, *plot.y_ticks))


def test_close_values_still_have_several_lines(make_trial: MakeTrial, make_point: MakePoint):
    plot = drawn(
        [make_trial(n, {}, make_point(ms, 1000.0 + n)) for n, ms in enumerate([181.0, 190.0, 199.0])],
    )
    assert len(plot.y_ticks) >= 2
    assert len(plot.x_ticks) >= 2


def test_a_point_whose_percentile_never_came_is_counted_and_not_drawn(make_trial: MakeTrial, make_point: MakePoint):
    plot = drawn([make_trial(0, {}, make_point(100.0), make_point(None, level=1))])
    assert (len(plot.spots), plot.not_drawn) == (1, 1)


def test_without_a_measurement_there_is_no_plot(make_trial: MakeTrial):
    assert scatter([make_trial(0, {}, oom=True)], ParetoFront(), SLA) is None


def test_a_limit_on_something_else_is_no_line(make_trial: MakeTrial, make_point: MakePoint):
    assert drawn([make_trial(0, {}, make_point())], Sla.model_validate({"p99_tpot_ms": 5})).limit is None


def test_of_two_runs_of_a_level_the_worse_is_drawn(make_trial: MakeTrial, make_point: MakePoint):
    plot = drawn([make_trial(0, {}, make_point(190.0), make_point(210.0))])
    assert [(spot.level, spot.look) for spot in plot.spots] == [(0, "misses")]


def test_each_point_looks_like_what_is_known_of_it(make_trial: MakeTrial, make_point: MakePoint):
    """Trial 3 met the SLA in the search and did not hold it when measured again."""
    late = make_point(100.0, 300.0).model_copy(update={"invalid": "the client was late"})
    trials = [
        make_trial(0, {}, make_point(100.0, 500.0)),
        make_trial(1, {}, make_point(120.0, 400.0)),
        make_trial(2, {}, make_point(300.0, 600.0)),
        make_trial(3, {}, make_point(190.0, 700.0)),
        make_trial(4, {}, late),
    ]
    again = make_point(230.0, 690.0)
    refuted = Confirmation(
        trial=3, load=again.load, runs=(again,), holds=False, output_throughput_per_device=690.0, p99_ttft_ms=230.0
    )
    result = JobResult(
        stopped_by="trials",
        front=pareto_front(trials, demoted={(3, 0)}),
        recommendation=Recommendation(trial=0, level=0, reason="because"),
        confirmations=(refuted,),
    )
    plot = scatter(trials, result.front, SLA, result)
    assert plot is not None
    looks = {spot.trial: spot.look for spot in plot.spots}
    assert looks == {0: "front", 1: "meets", 2: "misses", 3: "refuted", 4: "invalid"}
    assert [spot.trial for spot in plot.spots if spot.is_baseline] == [0]
    assert [spot.trial for spot in plot.spots if spot.is_recommended] == [0]
    assert plot.spots[-1].look == "front"  # drawn last, above the others


def test_re_runs_are_no_points_of_the_plot(make_trial: MakeTrial, make_point: MakePoint):
    again = make_trial(1, {}, make_point(110.0), purpose="confirmation", confirms=0)
    assert [spot.trial for spot in drawn([make_trial(0, {}, make_point()), again]).spots] == [0]
