"""When a level may end early, and that its verdict is then the one it would have come to."""

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.level_run import Hopeless, LevelRun, RequestRecord, ended_early
from autotune.measurement import clearly_violates, hopeless_rules, joined, load_point, out_of_reach
from autotune.results import Load, LoadPoint
from autotune.spec import Sla

SLA = Sla(p99_ttft_ms=200)
LOAD = Load(kind="request_rate", value=1)


def request(index: int, ttft_s: float, *, at_s: float = 0.0) -> RequestRecord:
    """An answer of two tokens, the second 100 ms after the first."""
    first_s = at_s + ttft_s
    return RequestRecord(index, at_s, at_s, (first_s, first_s + 0.1), first_s + 0.1, 10, 2, 2)


def level(ttfts_s: list[float], *, gap_s: float = 0.0) -> LevelRun:
    records = tuple(request(i, ttft_s, at_s=i * gap_s) for i, ttft_s in enumerate(ttfts_s))
    return LevelRun(records, planned=len(records))


def point(run: LevelRun, sla: Sla = SLA) -> LoadPoint:
    return load_point(run, level=0, load=LOAD, devices=1, seed=0, sla=sla)


def cut(run: LevelRun, rules: tuple[Hopeless, ...]) -> LevelRun:
    """The level as it comes home when the rules end it: what has ended, and who is late already."""
    at_s = ended_early(run.records, rules)
    if at_s is None:
        return run
    kept = []
    for record in run.records:
        times_s = tuple(time_s for time_s in record.token_times_s if time_s <= at_s)
        late = {"ttft": times_s[0] if times_s else at_s, "e2el": at_s}
        if record.end_s <= at_s:
            kept.append(record)
        elif any(late[rule.metric] - record.scheduled_s >= rule.limit_s for rule in rules):
            changes = {"token_times_s": times_s, "end_s": at_s, "error": "ended early", "unfinished": True}
            kept.append(dataclasses.replace(record, **changes))
    return dataclasses.replace(run, records=tuple(kept), aborted=True)


def test_a_first_look_ends_when_even_the_lower_bound_is_beyond_the_limit() -> None:
    """Of 500 requests the lower bound of the P99 is rank 491: ten beyond the limit decide."""
    (rule,) = hopeless_rules(SLA, 500, exact=False)
    assert (rule.metric, rule.allowed) == ("ttft", 9)
    assert rule.limit_s == pytest.approx(0.2)


def test_an_exact_end_waits_for_where_violations_are_clipped() -> None:
    """E^1.5 is 4.4817."""
    (rule,) = hopeless_rules(SLA, 500, exact=True)
    assert rule.limit_s == pytest.approx(0.89634, abs=1e-5)


def test_a_second_look_ends_when_both_together_are_lost() -> None:
    """Of 1,000 requests ten may be beyond the limit; the first look had seven of them."""
    first = level([0.3] * 7 + [0.1] * 493)
    (rule,) = hopeless_rules(SLA, 500, exact=False, first=first)
    assert rule.allowed == 3


def test_under_a_confidence_a_second_look_ends_by_the_upper_bound() -> None:
    """Of 1,000 requests the upper bound of the P99 is rank 996: four may be beyond the limit, and three were."""
    first = level([0.3] * 3 + [0.1] * 497)
    (rule,) = hopeless_rules(Sla(p99_ttft_ms=200, confidence=0.95), 500, exact=False, first=first)
    assert rule.allowed == 1


def test_a_second_look_that_cannot_save_a_level_is_not_taken() -> None:
    sla = Sla(p99_ttft_ms=200, confidence=0.95)
    assert out_of_reach(sla, level([0.3] * 5 + [0.1] * 495), 500)
    assert not out_of_reach(sla, level([0.3] * 4 + [0.1] * 496), 500)


def test_only_lines_of_whole_requests_have_rules() -> None:
    sla = Sla(p99_ttft_ms=200, p95_e2el_ms=900, p99_tpot_ms=20, p99_itl_ms=30)
    assert [rule.metric for rule in hopeless_rules(sla, 500, exact=False)] == ["ttft", "e2el"]


def test_so_few_requests_that_nothing_is_clear_never_end_early() -> None:
    assert hopeless_rules(Sla(p50_ttft_ms=200), 4, exact=False) == ()


def test_a_request_on_the_dot_is_not_beyond_the_limit() -> None:
    (rule,) = hopeless_rules(Sla(p50_ttft_ms=300), 5, exact=False)
    assert ended_early(level([0.1 + 0.2] * 5).records, (rule,)) is None


def test_an_unfinished_request_is_late_but_has_not_failed() -> None:
    """Two of four are decided; nothing is known of the time between the tokens of the late one."""
    late = dataclasses.replace(request(1, 9.0), token_times_s=(), end_s=5.0, error="ended early", unfinished=True)
    run = LevelRun((request(0, 0.1), late), planned=4, aborted=True)
    one = point(run, Sla(p99_ttft_ms=200, p99_tpot_ms=500))
    assert (one.completed, one.failed, one.unfinished, one.aborted) == (1, 0, 3, True)
    assert (one.ttft.at(99).value_ms, one.e2el.at(99).value_ms) == (None, None)
    assert one.violations["p99_ttft_ms"] == 1.5
    assert one.violations["error_rate"] == -1.0
    assert one.tpot.count == one.itl.count == 1
    assert one.violations["p99_tpot_ms"] < 0


def test_the_first_token_of_an_unfinished_request_counts() -> None:
    late = dataclasses.replace(request(0, 0.4), token_times_s=(0.4,), end_s=5.0, error="ended early", unfinished=True)
    one = point(LevelRun((late,), planned=1, aborted=True))
    assert one.ttft.at(50).value_ms == pytest.approx(400)
    assert one.e2el.at(50).value_ms is None


def test_a_level_of_which_nobody_was_answered_has_a_verdict() -> None:
    late = dataclasses.replace(request(0, 9.0), token_times_s=(), end_s=5.0, error="ended early", unfinished=True)
    one = point(LevelRun((late,), planned=4, aborted=True))
    assert (one.completed, one.failed, one.feasible) == (0, 0, False)


latencies_s = st.lists(
    st.sampled_from([0.05, 0.19, 0.2, 0.21, 0.5, 0.89, 0.9, 2.0]) | st.floats(0.01, 3.0), min_size=1, max_size=120
)
slas = st.builds(
    lambda name, limit, confidence: Sla(**{name: limit}, confidence=confidence),
    st.sampled_from(["p50_ttft_ms", "p90_ttft_ms", "p95_ttft_ms", "p90_e2el_ms"]),
    st.sampled_from([200.0, 500.0]),
    st.sampled_from([None, 0.9, 0.95]),
)


@settings(deadline=None)  # a stalled machine is no counterexample
@given(ttfts_s=latencies_s, sla=slas, gap_s=st.sampled_from([0.0, 0.01, 0.1]), exact=st.booleans())
def test_ending_a_first_look_early_never_changes_its_verdict(ttfts_s, sla, gap_s, exact) -> None:
    whole = level(ttfts_s, gap_s=gap_s)
    early = cut(whole, hopeless_rules(sla, whole.planned, exact=exact))
    assert point(early, sla).feasible == point(whole, sla).feasible
    assert clearly_violates(point(early, sla), sla) == clearly_violates(point(whole, sla), sla)


@settings(deadline=None)  # a stalled machine is no counterexample
@given(first_s=latencies_s, second_s=latencies_s, sla=slas, gap_s=st.sampled_from([0.0, 0.01]), exact=st.booleans())
def test_ending_a_second_look_early_never_changes_the_verdict_on_both(first_s, second_s, sla, gap_s, exact) -> None:
    """Nor does leaving it out where it cannot save the level."""
    first, second = level(first_s, gap_s=gap_s), level(second_s, gap_s=gap_s)
    whole = point(joined(first, second), sla)
    if out_of_reach(sla, first, second.planned):
        assert not whole.feasible
    else:
        early = cut(second, hopeless_rules(sla, second.planned, exact=exact, first=first))
        assert point(joined(first, early), sla).feasible == whole.feasible


@settings(deadline=None)  # a stalled machine is no counterexample
@given(ttfts_s=latencies_s, sla=slas, gap_s=st.sampled_from([0.0, 0.01, 0.1]))
def test_an_exact_end_leaves_the_violation_of_its_line_as_it_was(ttfts_s, sla, gap_s) -> None:
    whole = level(ttfts_s, gap_s=gap_s)
    early = cut(whole, hopeless_rules(sla, whole.planned, exact=True))
    (line,) = sla.latency_limits
    assert point(early, sla).violations[line.name] == point(whole, sla).violations[line.name]


def test_without_a_rule_in_force_a_level_runs_to_its_end() -> None:
    whole = level([0.1] * 500)
    assert cut(whole, hopeless_rules(SLA, 500, exact=False)) is whole
    assert math.isclose(point(whole).ttft.at(99).value_ms or 0.0, 100.0)


def under_way(index: int, *, age_s: float, first_s: float | None = None) -> RequestRecord:
    """A request that was scheduled at 0 and has not ended when its level is ended."""
    times_s = () if first_s is None else (first_s,)
    return RequestRecord(index, 0.0, 0.0, times_s, age_s, 0, 0, 2, error="ended early", unfinished=True)


BOTH = Sla(p50_ttft_ms=200, p50_e2el_ms=2000)


def test_an_open_request_that_is_late_at_its_first_token_only_says_nothing_of_its_end() -> None:
    """Three are open after 0.5 s, which is in time for an end within 2 s; the one answer took 200 ms."""
    run = LevelRun((request(0, 0.1), *(under_way(i, age_s=0.5) for i in (1, 2, 3))), planned=4, aborted=True)
    one = point(run, BOTH)
    assert (one.ttft.count, one.ttft.at(50).value_ms) == (4, None)
    assert (one.e2el.count, one.e2el.at(50).value_ms) == (1, pytest.approx(200))
    assert one.violations["p50_ttft_ms"] == 1.5
    assert one.violations["p50_e2el_ms"] == -1.0


def test_an_open_request_beyond_the_limit_of_its_end_is_infinite_in_it() -> None:
    run = LevelRun((request(0, 0.1), *(under_way(i, age_s=2.1, first_s=0.1) for i in (1, 2))), planned=3, aborted=True)
    assert point(run, BOTH).violations == {
        "p50_ttft_ms": pytest.approx(-0.693147),
        "p50_e2el_ms": 1.5,
        "error_rate": -1,
    }


def test_a_line_of_which_nothing_was_seen_before_the_level_was_ended_is_not_met() -> None:
    run = LevelRun(tuple(under_way(i, age_s=0.5) for i in range(4)), planned=4, aborted=True)
    found = point(run, Sla(p50_ttft_ms=200, p50_e2el_ms=2000, p99_tpot_ms=20, p99_itl_ms=20)).violations
    assert found == {
        "p50_ttft_ms": 1.5,
        "p99_tpot_ms": 1.5,
        "p99_itl_ms": 1.5,
        "p50_e2el_ms": 1.5,
        "error_rate": -1.0,
    }
