"""The Pareto front, the choice from it, and the recommendation with its reason."""

import math
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.errors import InputError, NotFound
from autotune.results import (
    Confirmation,
    Evidence,
    FailureClass,
    Infeasible,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Purpose,
    Quantile,
    Trial,
    TrialOutcome,
    TrialResult,
)
from autotune.selection import (
    Pick,
    Reset,
    Rule,
    candidates,
    choose,
    compare,
    pareto_front,
    parse_policy,
    recommend,
)
from autotune.spec import Sla

LIMIT_MS = 200
SLA = Sla(p99_ttft_ms=LIMIT_MS)


def latency(value_ms: float | None) -> Latency:
    quantile = Quantile(percent=99, value_ms=value_ms, lower_ms=value_ms, upper_ms=value_ms)
    return Latency(count=100, mean_ms=value_ms, quantiles=(quantile,))


def point(level: int, throughput: float, ttft_ms: float | None, *, devices: int = 1, failed: int = 0) -> LoadPoint:
    overshoot = 1.5 if ttft_ms is None else math.log(ttft_ms / LIMIT_MS)
    return LoadPoint(
        level=level,
        load=Load(kind="max_concurrency", value=2.0**level),
        devices=devices,
        seed=0,
        duration_s=10,
        completed=100 - failed,
        failed=failed,
        request_throughput=throughput / 100,
        output_throughput=throughput,
        total_token_throughput=throughput,
        request_goodput=0,
        ttft=latency(ttft_ms),
        tpot=latency(10),
        itl=latency(10),
        e2el=latency(1000),
        client_lag_ms=0,
        violations={"p99_ttft_ms": overshoot, "error_rate": failed / 100 - 0.01},
    )


def trial(
    number: int, *points: LoadPoint, purpose: Purpose | None = None, outcome: TrialOutcome | None = None
) -> Trial:
    good = [p for p in points if p.feasible]
    best = max(good, key=lambda p: p.output_throughput_per_device).level if good else None
    return Trial(
        number=number,
        purpose=purpose or ("search" if number else "baseline"),
        origin="gp" if number else "baseline",
        knobs={"max_num_seqs": number},
        config=EngineConfig(arguments={"max_num_seqs": number}),
        result=TrialResult(outcome=outcome or Measured(points=points, operating_level=best)),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def refused(number: int) -> Trial:
    evidence = Evidence(
        failure=FailureClass.OOM, signature="npu_oom", cause="The NPU's memory is exhausted.", advice=""
    )
    return trial(number, outcome=Infeasible(evidence=evidence))


def confirmation(number: int, *throughputs: float, ttft_ms: float = 143, holds: bool = True) -> Confirmation:
    runs = tuple(point(2, throughput, ttft_ms) for throughput in throughputs)
    return Confirmation(
        trial=number,
        load=Load(kind="max_concurrency", value=4),
        runs=runs,
        holds=holds,
        output_throughput_per_device=sum(throughputs) / len(throughputs),
        p99_ttft_ms=ttft_ms,
    )


def front_of(*pairs: tuple[float, float]) -> ParetoFront:
    return pareto_front([trial(number, point(0, *pair)) for number, pair in enumerate(pairs)])


# The front

measurements = st.lists(
    st.tuples(st.sampled_from([100.0, 200.0, 300.0, 400.0]), st.sampled_from([20.0, 50.0, 190.0, 200.0, 250.0, None])),
    min_size=1,
    max_size=4,
)


@given(st.lists(measurements, max_size=6))
def test_the_front_is_what_no_other_feasible_point_dominates(job: list[list[tuple[float, float | None]]]) -> None:
    trials = [trial(n, *(point(level, *m) for level, m in enumerate(levels))) for n, levels in enumerate(job)]
    feasible = [
        (throughput, ttft_ms, number, level)
        for number, levels in enumerate(job)
        for level, (throughput, ttft_ms) in enumerate(levels)
        if ttft_ms is not None and ttft_ms <= LIMIT_MS
    ]
    expected = {
        a
        for a in feasible
        if not any((b[0] >= a[0] and b[1] <= a[1] and b[:2] != a[:2]) or (b[:2] == a[:2] and b < a) for b in feasible)
    }
    front = pareto_front(trials).points
    assert {(p.output_throughput_per_device, p.p99_ttft_ms, p.trial, p.level) for p in front} == expected
    assert [p.output_throughput_per_device for p in front] == sorted(p.output_throughput_per_device for p in front)


def test_throughput_is_compared_per_device() -> None:
    front = pareto_front([trial(0, point(0, 100, 50)), trial(1, point(0, 150, 50, devices=2))])
    assert [(p.trial, p.output_throughput_per_device) for p in front.points] == [(0, 100)]


@pytest.mark.parametrize("purpose", ["confirmation", "ablation"])
def test_later_launches_and_failures_are_no_part_of_the_front(purpose: Purpose) -> None:
    again = trial(2, point(0, 900, 20), purpose=purpose)
    assert [p.trial for p in pareto_front([trial(0, point(0, 100, 50)), refused(1), again]).points] == [0]


def test_what_was_launched_after_the_search_is_never_recommended_for_what_it_was_observed() -> None:
    trials = [trial(0, point(0, 100, 50)), trial(2, point(0, 900, 20), purpose="ablation")]
    assert recommend(trials, [], SLA).trial == 0


def test_of_a_load_measured_twice_the_worse_run_counts() -> None:
    assert pareto_front([trial(1, point(0, 100, 190), point(0, 110, 210))]).points == ()


# Policies


def test_policies_are_read() -> None:
    assert parse_policy("knee") == Rule("knee")
    assert parse_policy("trial=12") == Pick(12, None)
    assert parse_policy("trial=12:3") == Pick(12, 3)


def test_a_misspelt_policy_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"unknown selection 'max-troughput'; did you mean max-throughput\?"):
        parse_policy("max-troughput")
    with pytest.raises(
        InputError, match="use one of: recommended, max-throughput, min-latency, knee, trial=N, trial=N:LEVEL"
    ):
        parse_policy("trial=x:y:z")


def test_the_extremes_of_the_front_are_chosen() -> None:
    front = front_of((100, 20), (200, 50), (300, 190))
    assert choose(front, Rule("max-throughput")).trial == 2
    assert choose(front, Rule("min-latency")).trial == 0


def test_the_knee_gains_most_throughput_for_its_latency() -> None:
    # Normalised (throughput, log TTFT): (0, 0), (0.8, 0.2), (0.9, 0.8), (1, 1) with TTFT from 10 to 100 ms.
    front = front_of((100, 10), (180, 10**1.2), (190, 10**1.8), (200, 100))
    assert choose(front, Rule("knee")).trial == 1


def test_a_front_without_a_good_side_has_its_knee_at_the_highest_throughput() -> None:
    assert choose(front_of((100, 10), (110, 90), (200, 100)), Rule("knee")).trial == 2
    assert choose(front_of((100, 10)), Rule("knee")).trial == 0


def test_a_trial_is_picked_at_its_fastest_feasible_level_or_at_the_named_one() -> None:
    trials = [trial(4, point(0, 100, 20), point(1, 150, 90), point(2, 160, 400))]
    front = pareto_front(trials)
    assert choose(front, Pick(4, None)).level == 1
    assert choose(front, Pick(4, 0)).level == 0
    with pytest.raises(NotFound, match="trial 4 does not meet the SLA at level 2; it does at: 0, 1"):
        choose(front, Pick(4, 2), trials)


def test_a_feasible_trial_off_the_front_can_be_picked_when_the_trials_are_given() -> None:
    trials = [trial(0, point(0, 100, 50)), trial(1, point(0, 200, 40))]
    front = pareto_front(trials)
    assert choose(front, Pick(0, None), trials).output_throughput_per_device == 100
    with pytest.raises(NotFound, match="trial 0 has no load level that meets the SLA; trials that meet it: 1"):
        choose(front, Pick(0, None))
    with pytest.raises(NotFound, match="trial 9 does not exist; trials that meet it: 0, 1"):
        choose(front, Pick(9, None), trials)


def test_nothing_can_be_chosen_from_an_empty_front() -> None:
    with pytest.raises(NotFound, match="no load point meets the SLA"):
        choose(ParetoFront(), Rule("knee"))


# Comparison and candidates


def test_ratios_are_candidate_over_baseline_per_device() -> None:
    comparison = compare(point(0, 600, 100, devices=2), point(0, 200, 50))
    assert (comparison.throughput_ratio, comparison.p99_ttft_ratio) == (1.5, 2.0)


def test_there_is_no_ratio_without_a_baseline_or_its_latency() -> None:
    assert compare(point(0, 600, 100), None).throughput_ratio is None
    assert compare(point(0, 600, 100), point(0, 200, None)).p99_ttft_ratio is None


def test_candidates_are_the_fastest_feasible_search_trials() -> None:
    trials = [trial(0, point(0, 900, 50)), trial(1, point(0, 100, 50)), trial(2, point(0, 300, 50)), refused(3)]
    assert [t.number for t in candidates(trials, 1)] == [2]
    assert [t.number for t in candidates(trials, 5)] == [2, 1]


def test_near_misses_get_a_second_look_only_when_too_few_are_feasible() -> None:
    trials = [
        trial(1, point(0, 100, 50)),
        trial(2, point(0, 300, 209)),
        trial(3, point(0, 300, 203)),
        trial(4, point(0, 400, 211)),
    ]
    assert [t.number for t in candidates(trials, 1)] == [1]
    assert [t.number for t in candidates(trials, 5)] == [1, 3, 2]


# The recommendation


def test_confirmed_candidates_are_ranked_by_their_reruns() -> None:
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 950, 140)), trial(9, point(2, 900, 140))]
    reruns = [confirmation(0, 500, 501, 499), confirmation(7, 789, 791, 790), confirmation(9, 812, 806, 818)]
    choice = recommend(trials, reruns, SLA)
    assert (choice.trial, choice.level, choice.confirmed) == (9, 2, True)
    assert choice.reason == (
        "confirmed by 3 re-runs: 812 tok/s per device, P99 TTFT 143 ms ≤ 200 ms at 4 concurrent; "
        "baseline 500 tok/s (1.62×, +312 tok/s per device, 95 % interval +287 to +337 for the best of 2); "
        "the re-runs do not tell it from trial 7 (790 tok/s)"
    )
    assert choice.versus_baseline is not None
    assert choice.versus_baseline.throughput_ratio == pytest.approx(1.624)
    assert choice.versus_baseline.throughput_difference_tok_s == pytest.approx(312)
    # The differences by seed are 312, 305 and 319: 7 / √3 is the standard error. 6.205 is the quantile for 2 degrees of
    # freedom and 97.5 %, as the winner is the best of two.
    assert choice.versus_baseline.throughput_difference_low_tok_s == pytest.approx(312 - 6.2053 * 7 / 3**0.5, abs=0.01)
    assert choice.versus_baseline.throughput_difference_high_tok_s == pytest.approx(312 + 6.2053 * 7 / 3**0.5, abs=0.01)


def test_a_candidate_that_no_longer_holds_is_demoted_and_named() -> None:
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 950, 190)), trial(9, point(2, 900, 140))]
    reruns = [confirmation(0, 500), confirmation(7, 960, ttft_ms=230, holds=False), confirmation(9, 812)]
    choice = recommend(trials, reruns, SLA)
    assert choice.trial == 9
    assert "; trial 7 did not hold the SLA when measured again; " in choice.reason


def test_what_kept_the_baseline_from_the_winners_load_is_told_when_it_was_measured_only_once() -> None:
    """A machine that was busy for a minute would do: the interval knows nothing of it."""
    trials = [trial(0, point(1, 500, 100), point(2, 700, 260)), trial(7, point(2, 950, 140))]
    lower = Load(kind="max_concurrency", value=2)
    base = confirmation(0, 500, 501, 499).model_copy(update={"load": lower})
    told = "; above its load the baseline was measured once: P99 TTFT 260 ms at 4 concurrent, limit 200 ms"
    assert recommend(trials, [base, confirmation(7, 789, 791, 790)], SLA).reason.endswith(told)
    same = recommend(trials, [confirmation(0, 500, 501, 499), confirmation(7, 789, 791, 790)], SLA)
    assert "measured once" not in same.reason


def test_an_interval_with_zero_in_it_is_no_clear_winner_over_the_baseline() -> None:
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 520, 140))]
    choice = recommend(trials, [confirmation(0, 480, 520), confirmation(7, 510, 530)], SLA)
    assert choice.trial == 7
    assert choice.reason.endswith(
        "no clear winner over the baseline, trial 0: "
        "baseline 500 tok/s (1.04×, +20 tok/s per device, 95 % interval -107 to +147)"
    )


def test_less_than_one_percent_is_no_clear_winner_however_narrow_the_interval() -> None:
    """At one offered load only the last answers differ: 1002.8 and 1001.8 tok/s, in every pair of runs."""
    trials = [trial(0, point(2, 1001.8, 143)), trial(7, point(2, 1002.8, 120))]
    reruns = [confirmation(0, 1001.8, 1001.9, 1001.7), confirmation(7, 1002.8, 1002.9, 1002.7, ttft_ms=120)]
    choice = recommend(trials, reruns, SLA)
    assert choice.trial == 7
    assert choice.reason.endswith(
        "no clear winner over the baseline, trial 0: "
        "baseline 1002 tok/s (1.00×, +1 tok/s per device, 95 % interval +1 to +1)"
    )
    assert choice.versus_baseline is not None
    assert choice.versus_baseline.is_open


def test_the_best_of_eight_that_are_like_the_baseline_is_seldom_a_clear_winner() -> None:
    """At most one time in forty; by the interval of a single comparison 36 of these 300 would be."""
    draw = random.Random(1)
    trials = [trial(n, point(2, 100, 100)) for n in range(9)]
    false = 0
    for _ in range(300):
        reruns = [confirmation(n, *(draw.gauss(1000, 50) for _ in range(3))) for n in range(9)]
        choice = recommend(trials, reruns, SLA)
        false += choice.trial != 0 and "no clear winner" not in choice.reason
    assert false <= 300 / 40


def test_one_percent_in_every_run_is_a_clear_winner() -> None:
    trials = [trial(0, point(2, 1000, 143)), trial(7, point(2, 1010, 143))]
    choice = recommend(trials, [confirmation(0, 1000, 1001, 999), confirmation(7, 1010, 1011, 1009)], SLA)
    assert "no clear winner" not in choice.reason


def test_of_candidates_as_fast_within_one_percent_the_one_with_the_largest_margin_is_recommended() -> None:
    """Trial 9 is at 60 % of its limit in its worst run, trial 7 at 95 %, and trial 5 is 2 % slower."""
    trials = [trial(n, point(2, 900, 100)) for n in (0, 5, 7, 9)]
    reruns = [
        confirmation(0, 500),
        confirmation(5, 980, ttft_ms=50),
        confirmation(7, 1000, ttft_ms=190),
        confirmation(9, 992, ttft_ms=120),
    ]
    choice = recommend(trials, reruns, SLA)
    assert choice.trial == 9
    assert choice.reason.endswith("; trial 7 (1000 tok/s) is as fast within 1 %, where the margin to the SLA decides")


def test_of_equal_margins_the_lower_p99_ttft_is_recommended() -> None:
    """Both are below e^-1 of the limit, where a violation is clipped."""
    clipped = {"p99_ttft_ms": -1.0, "error_rate": -1.0}

    def far(number: int, throughput: float, ttft_ms: float) -> Confirmation:
        made = confirmation(number, throughput, ttft_ms=ttft_ms)
        return made.model_copy(update={"runs": tuple(r.model_copy(update={"violations": clipped}) for r in made.runs)})

    trials = [trial(n, point(2, 900, 100)) for n in (0, 7, 9)]
    assert recommend(trials, [confirmation(0, 500), far(7, 1000, 40), far(9, 999, 30)], SLA).trial == 9


def test_two_candidates_that_the_reruns_do_not_tell_apart_are_both_named() -> None:
    """Trial 9 is 22 tok/s faster on average, give or take 35."""
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 950, 140)), trial(9, point(2, 900, 140))]
    reruns = [confirmation(0, 500, 501, 499), confirmation(7, 780, 800, 790), confirmation(9, 812, 806, 818)]
    choice = recommend(trials, reruns, SLA)
    assert choice.trial == 9
    assert choice.reason.endswith("; the re-runs do not tell it from trial 7 (790 tok/s)")


def test_a_single_rerun_shows_no_interval_and_no_verdict() -> None:
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 950, 140)), trial(9, point(2, 900, 140))]
    choice = recommend(trials, [confirmation(0, 500), confirmation(7, 790), confirmation(9, 812)], SLA)
    assert choice.reason.endswith("; baseline 500 tok/s (1.62×, +312 tok/s per device; a single run shows no interval)")
    assert choice.versus_baseline is not None
    assert choice.versus_baseline.throughput_difference_low_tok_s is None


def unsteady(point: LoadPoint) -> LoadPoint:
    return point.model_copy(update={"steady": False, "drift": 3.2, "drift_of": "tpot"})


def test_the_reason_tells_re_runs_that_were_not_steady() -> None:
    again = confirmation(7, 800, 801, 799)
    again = again.model_copy(update={"runs": (again.runs[0], unsteady(again.runs[1]), unsteady(again.runs[2]))})
    choice = recommend([trial(0, point(2, 500, 100)), trial(7, point(2, 950, 140))], [confirmation(0, 500), again], SLA)
    assert (
        "; not steady in 2 of 3 runs (the TPOT of the second half is 3.20x the first): "
        "a longer level would show worse figures; "
    ) in choice.reason


def test_the_reason_tells_an_observation_that_was_not_steady() -> None:
    choice = recommend([trial(0, point(2, 500, 100)), trial(7, unsteady(point(2, 950, 140)))], [], SLA)
    assert "; not steady (the TPOT of the second half is 3.20x the first): a longer" in choice.reason


def test_with_a_confidence_the_reason_names_the_upper_bound() -> None:
    sla = Sla.model_validate({"p99_ttft_ms": LIMIT_MS, "confidence": 0.95})
    choice = recommend([trial(0, point(2, 500, 100))], [confirmation(0, 500)], sla)
    assert "P99 TTFT with 95% confidence 143 ms ≤ 200 ms" in choice.reason


def test_the_baseline_is_kept_when_its_reruns_are_the_best() -> None:
    trials = [trial(0, point(2, 500, 100)), trial(7, point(2, 520, 140))]
    choice = recommend(trials, [confirmation(0, 510), confirmation(7, 490)], SLA)
    assert choice.trial == 0
    assert choice.reason.endswith("no clear winner over the baseline: trial 7 reached 490 tok/s")


def test_a_baseline_that_does_not_hold_is_no_yardstick() -> None:
    trials = [trial(0, point(2, 500, 250)), trial(7, point(2, 300, 140))]
    choice = recommend(trials, [confirmation(0, 510, ttft_ms=250, holds=False), confirmation(7, 300)], SLA)
    assert choice.reason.endswith("the baseline does not hold the SLA at 4 concurrent")
    assert choice.versus_baseline is not None
    assert choice.versus_baseline.throughput_ratio is None


def test_nothing_is_recommended_when_no_candidate_holds() -> None:
    trials = [trial(0, point(2, 500, 190)), trial(7, point(2, 520, 190))]
    reruns = [confirmation(0, 510, ttft_ms=250, holds=False), confirmation(7, 490, ttft_ms=220, holds=False)]
    choice = recommend(trials, reruns, SLA)
    assert (choice.trial, choice.closest_trial) == (None, 7)
    assert choice.reason == (
        "nothing holds the SLA when measured again; the closest was trial 7: "
        "P99 TTFT 220 ms at 4 concurrent, limit 200 ms"
    )


def test_without_reruns_the_best_observed_is_named_as_unconfirmed() -> None:
    trials = [trial(0, point(0, 400, 100)), trial(3, point(1, 600, 150), point(2, 700, 300))]
    choice = recommend(trials, [], SLA)
    assert (choice.trial, choice.level, choice.confirmed) == (3, 1, False)
    assert choice.reason == (
        "best observed, not confirmed by re-runs: 600 tok/s per device, P99 TTFT 150 ms ≤ 200 ms at 2 concurrent; "
        "baseline 400 tok/s (1.50×)"
    )


def test_without_reruns_the_baseline_may_be_the_best() -> None:
    choice = recommend([trial(0, point(0, 400, 100)), trial(1, point(0, 300, 100))], [], SLA)
    assert choice.trial == 0
    assert "no clear winner over the baseline" in choice.reason


def test_when_nothing_meets_the_sla_the_closest_is_named() -> None:
    choice = recommend([trial(0, point(2, 400, 500)), trial(4, point(2, 300, 263)), refused(5)], [], SLA)
    assert (choice.trial, choice.closest_trial) == (None, 4)
    assert choice.reason == (
        "nothing meets the SLA; the closest was trial 4: P99 TTFT 263 ms at 4 concurrent, limit 200 ms"
    )


def test_failed_requests_are_told_as_their_share() -> None:
    choice = recommend([trial(1, point(0, 400, 100, failed=5))], [], SLA)
    assert choice.reason.endswith("trial 1: 5.0% of the requests failed at 1 concurrent, limit 1.0%")


def test_when_nothing_ran_the_last_cause_is_told() -> None:
    choice = recommend([refused(0), refused(1)], [], SLA)
    assert (
        choice.reason == "no trial could be measured; 2 could not run, the last because: The NPU's memory is exhausted."
    )
    assert choice.closest_trial is None


def test_a_configuration_that_did_not_start_again_is_not_recommended():
    trials = [trial(0, point(0, 300, 100)), trial(1, point(0, 400, 100))]
    assert recommend(trials, [], SLA, broken={1}).trial == 0


def test_when_nothing_starts_again_that_is_the_reason_and_nothing_is_recommended():
    choice = recommend([trial(0, point(0, 300, 100)), trial(1, point(0, 400, 100))], [], SLA, broken={0, 1})
    assert choice.trial is None
    assert choice.reason.startswith("what met the SLA did not start again when it was to be confirmed (trials 0, 1)")


def test_a_reset_is_measured_by_the_best_that_holds_and_by_the_one_percent_alone() -> None:
    """989 and 991 of the best's 1000; the winner's own 980 would let both pass."""
    slow, fast = (
        Reset(
            trial(4, point(0, value, 143)),
            confirmation(1, 980.0),
            confirmation(4, value),
            None,
            (),
            rivals=(confirmation(2, 1000.0),),
        )
        for value in (989.0, 991.0)
    )
    assert (slow.keeps_up, fast.keeps_up) == (False, True)
