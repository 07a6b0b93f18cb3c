"""Levels that never reached a steady state, and levels in which the load generator was the bottleneck."""

import dataclasses
import math
import random
from itertools import pairwise

import pytest

from autotune.level_run import ClientUse, LevelRun, RequestRecord
from autotune.measurement import client_bound, drift, joined, load_point
from autotune.results import Load, LoadPoint
from autotune.spec import Sla

SLA = Sla(p99_ttft_ms=200)


def answered(index: int, ttft_s: float) -> RequestRecord:
    return RequestRecord(index, 0.0, 0.0, (ttft_s,), ttft_s, 10, 1, 1)


def of(ttfts_s: list[float]) -> list[RequestRecord]:
    return [answered(index, ttft_s) for index, ttft_s in enumerate(ttfts_s)]


def queue(utilization: float, *, count: int, seed: int) -> list[RequestRecord]:
    """One server, exponential gaps and service times with a mean of 1 s (M/M/1), from an empty queue."""
    draw = random.Random(seed)
    gaps = [draw.expovariate(utilization) for _ in range(count)]
    waits_s = [0.0]
    for gap_s in gaps[1:]:
        waits_s.append(max(0.0, waits_s[-1] + draw.expovariate(1.0) - gap_s))
    return of([0.05 + wait_s for wait_s in waits_s])


@pytest.mark.parametrize("utilization", [1.3, 2.0])
def test_a_queue_that_grows_is_not_steady(utilization: float) -> None:
    assert not any(drift(queue(utilization, count=500, seed=seed)).steady for seed in range(20))


@pytest.mark.parametrize("utilization", [0.3, 0.5, 0.7])
def test_a_queue_that_comes_and_goes_is_steady(utilization: float) -> None:
    """At most one of twenty levels that are loaded as a service should be is marked."""
    assert sum(drift(queue(utilization, count=500, seed=seed)).steady for seed in range(20)) >= 19


def test_the_drift_is_the_ratio_of_the_medians() -> None:
    found = drift(of([0.1] * 50 + [0.3] * 50))
    assert found.ratio == pytest.approx(3.0)
    assert not found.steady


def test_a_small_growth_is_steady_however_significant() -> None:
    assert drift(of([0.1 + i / 1e5 for i in range(100)] + [0.12 + i / 1e5 for i in range(100)])).steady


def streamed(index: int, tpot_s: float, tokens: int = 16) -> RequestRecord:
    times_s = tuple(0.1 + tpot_s * token for token in range(tokens))
    return RequestRecord(index, 0.0, 0.0, times_s, times_s[-1], 10, tokens, tokens)


def test_a_tpot_that_grows_under_a_steady_ttft_is_marked_where_the_sla_names_it() -> None:
    run = LevelRun(tuple(streamed(i, 0.010 * (1 + 9 * i / 500)) for i in range(500)), planned=500)

    def point(**lines: float) -> LoadPoint:
        load = Load(kind="request_rate", value=10)
        return load_point(run, level=0, load=load, devices=1, seed=0, sla=Sla(**lines))

    assert point(p99_ttft_ms=200).steady
    found = point(p99_tpot_ms=200)
    assert (found.steady, found.drift_of) == (False, "tpot")
    assert found.drift == pytest.approx(7.732 / 3.232, abs=0.01)  # requests 374 and 124
    assert found.growth == "the TPOT of the second half is 2.39x the first"


def test_of_several_metrics_that_grow_the_one_that_grew_most_is_told() -> None:
    records = [streamed(i, 0.010 if i < 50 else 0.050) for i in range(100)]
    found = drift(records, ("ttft", "e2el", "tpot"))
    assert (found.metric, found.ratio, found.steady) == ("tpot", pytest.approx(5.0), False)


def test_several_metrics_share_the_chance_of_a_false_mark() -> None:
    """TTFT alone is beyond chance by one that three metrics cannot each have; here all three are the same queue."""
    records = queue(0.9, count=500, seed=5)
    assert not drift(records).steady
    assert drift(records, ("ttft", "e2el", "itl")).steady


def test_answers_of_one_token_have_no_tpot_that_drifts() -> None:
    assert drift(of([0.1] * 100), ("ttft", "tpot")).steady
    assert not drift(of([0.1] * 50 + [0.3] * 50), ("ttft", "tpot")).steady


def test_ttft_that_falls_is_steady() -> None:
    """A longer level would show better figures, not worse ones."""
    assert drift(of([0.3] * 50 + [0.1] * 50)).steady


def test_the_users_of_a_closed_loop_who_all_come_at_once_are_left_out() -> None:
    """Were they counted, their wait would be taken for a queue that shrinks."""
    assert drift(of([9.0] * 150 + [0.1] * 50 + [0.3] * 50), users=150).ratio == pytest.approx(3.0)


def test_repeated_runs_are_halved_each_by_itself() -> None:
    """The second run is slower from its start: nothing grew within a run."""
    both = joined(LevelRun(tuple(of([0.1] * 60))), LevelRun(tuple(of([0.3] * 60))))
    assert drift(both.records).ratio == pytest.approx(1.0)


def test_a_few_requests_show_no_drift() -> None:
    found = drift(of([0.1] * 19 + [0.9] * 20))
    assert (found.ratio, found.steady) == (None, True)


def test_a_second_half_that_nobody_was_served_in_is_not_steady() -> None:
    failed = [RequestRecord(i, 0.0, 0.0, (), 1.0, 10, 0, 1, "HTTP 500") for i in range(50, 100)]
    found = drift(of([0.1] * 50) + failed)
    assert (found.ratio, found.steady) == (None, False)


def test_a_load_point_tells_its_drift() -> None:
    def point(**changes: object):
        run = LevelRun(tuple(of([0.1] * 50 + [0.3] * 50)), planned=100, **changes)
        load = Load(kind="max_concurrency", value=2)
        return load_point(run, level=0, load=load, devices=1, seed=0, sla=SLA)

    assert not point().steady
    assert point(aborted=True).drift is None  # half of it is missing


def test_blocks_are_compared_not_requests() -> None:
    """Neighbours in one queue are alike: one long wait in each half's end is chance, however many share it."""
    wave = [0.1] * 60 + [0.2] * 40
    steady = drift(of(wave + [0.1] * 40 + [0.2] * 60))
    assert steady.ratio == pytest.approx(2.0)
    assert steady.steady


# The client


def test_a_client_that_keeps_up_says_nothing() -> None:
    assert client_bound(19.0, ClientUse(cpu_share=0.9, pause_ms=19.0), 60.0, SLA) == ""


@pytest.mark.parametrize(
    ("lag_ms", "use", "said"),
    [
        (21.0, ClientUse(), "sent 21 ms late or later (20 ms are borne)"),
        (0.0, ClientUse(pause_ms=21.0), "noticed an arrival 21 ms late or later (20 ms are borne)"),
        (0.0, ClientUse(cpu_share=0.95), "used 95% of its core"),
    ],
)
def test_a_client_that_blurs_the_verdict_is_told_with_advice(lag_ms: float, use: ClientUse, said: str) -> None:
    reason = client_bound(lag_ms, use, 60.0, SLA)
    assert said in reason
    assert "Give the load generator a core of its own" in reason


@pytest.mark.parametrize(
    ("sla", "borne_ms"),
    [
        (Sla(p99_ttft_ms=2000, p50_e2el_ms=1000), 100.0),  # a tenth of the tightest
        (Sla(p99_ttft_ms=20), 10.0),  # what every busy machine has
        (Sla(p99_ttft_ms=2000, p99_itl_ms=60), 30.0),  # half a gap
        (Sla(p99_tpot_ms=10), 100.0),  # averaged out
    ],
)
def test_the_tightest_line_says_what_is_borne(sla: Sla, borne_ms: float) -> None:
    assert client_bound(borne_ms - 0.1, ClientUse(pause_ms=borne_ms - 0.1), 60.0, sla) == ""
    assert client_bound(borne_ms + 0.1, ClientUse(), 60.0, sla) != ""
    assert client_bound(0.0, ClientUse(pause_ms=borne_ms + 0.1), 60.0, sla) != ""


def test_a_level_in_which_the_client_was_the_bottleneck_is_invalid_and_so_not_feasible() -> None:
    records = [dataclasses.replace(record, end_s=5.0) for record in of([0.1] * 10)]
    run = LevelRun(tuple(records), client=ClientUse(cpu_share=0.99))
    point = load_point(run, level=0, load=Load(kind="request_rate", value=1), devices=1, seed=0, sla=SLA)
    assert "99% of its core" in point.invalid
    assert max(point.violations.values()) <= 0
    assert not point.feasible


def test_one_pause_of_a_short_level_proves_nothing() -> None:
    use = ClientUse(cpu_share=0.99, pause_ms=500.0)
    assert client_bound(0.0, use, 4.9, SLA) == ""
    assert client_bound(0.0, use, 5.0, SLA) != ""
    assert client_bound(21.0, ClientUse(), 4.9, SLA) != ""


def test_waiting_for_a_place_is_no_lag_of_the_client() -> None:
    """Due at 1 s, free at 3 s, sent 2 ms later."""
    record = RequestRecord(0, 1.0, 3.002, (3.1,), 3.1, 10, 1, 1, free_s=3.0)
    point = load_point(
        LevelRun((record,)), level=0, load=Load(kind="request_rate", value=1), devices=1, seed=0, sla=SLA
    )
    assert point.client_lag_ms == pytest.approx(2.0)
    assert point.ttft.at(50).value_ms == pytest.approx(2100)


def test_medians_order_the_queues_of_the_tests() -> None:
    """The tests' own queue waits longer the more it is loaded."""
    loads = [queue(u, count=500, seed=1) for u in (0.3, 0.7, 1.3)]
    waits = [math.fsum(record.end_s for record in records) for records in loads]
    assert all(below < above for below, above in pairwise(waits))


def sent_late(lags_s: list[float], **changes: object):
    """The point of a level whose requests were all due at once and sent so much later."""
    records = tuple(RequestRecord(i, 0.0, lag_s, (), 4.0, 10, 0, 1, "late") for i, lag_s in enumerate(lags_s))
    run = LevelRun(records, **changes)  # type: ignore[arg-type]
    return load_point(run, level=0, load=Load(kind="request_rate", value=1), devices=1, seed=0, sla=SLA)


def test_of_a_level_that_was_ended_early_as_many_requests_may_be_sent_late_as_of_the_whole() -> None:
    """Ten of 50 decided requests were sent 50 ms late. Of 1,000 planned ones ten may be; an eleventh may not."""
    assert sent_late([0.05] * 10 + [0.001] * 40, planned=1000, aborted=True).client_lag_ms == pytest.approx(1.0)
    assert sent_late([0.05] * 11 + [0.001] * 39, planned=1000, aborted=True).client_lag_ms == pytest.approx(50.0)
    assert sent_late([0.05] * 10, planned=1000, aborted=True).client_lag_ms == 0.0


def test_a_level_that_ran_to_its_end_is_judged_by_its_own_p99() -> None:
    assert sent_late([0.05] * 2 + [0.001] * 98).client_lag_ms == pytest.approx(50.0)
    assert sent_late([0.05] + [0.001] * 99).client_lag_ms == pytest.approx(1.0)


def test_waiting_for_a_place_is_no_lag_in_pooled_runs_either() -> None:
    """Due at 1 s, free at 3 s, sent 2 ms later, in both runs."""
    run = LevelRun((RequestRecord(0, 1.0, 3.002, (3.1,), 3.1, 10, 1, 1, free_s=3.0),))
    point = load_point(joined(run, run), level=0, load=Load(kind="request_rate", value=1), devices=1, seed=0, sla=SLA)
    assert point.client_lag_ms == pytest.approx(2.0)


def test_a_short_level_that_was_ended_early_is_judged_all_the_same() -> None:
    """The busy client may be why its requests were late."""
    use = ClientUse(cpu_share=0.99)
    assert client_bound(0.0, use, 1.0, SLA, aborted=True) != ""
    late = tuple(RequestRecord(i, 0.0, 0.0, (), 1.0, 10, 0, 1, "late", unfinished=True) for i in range(10))
    run = LevelRun(late, client=use, planned=500, aborted=True)
    found = load_point(run, level=0, load=Load(kind="request_rate", value=1), devices=1, seed=0, sla=SLA)
    assert "99% of its core" in found.invalid


def conversation(number: int, turns: list[tuple[float, float]]) -> list[RequestRecord]:
    """Turns by due time and TTFT (s), planned one after the other."""
    first = number * len(turns)
    return [RequestRecord(first + i, at_s, at_s, (at_s + t,), at_s + t, 10, 1, 1) for i, (at_s, t) in enumerate(turns)]


def test_the_requests_left_out_are_those_sent_first_not_those_planned_first() -> None:
    """Fifty users at once, each with a second turn: 0.1 s for those of the earlier ones, then 0.3 s."""
    of_users = [conversation(c, [(0.0, 9.0), (10.0 + c, 0.1 if c < 25 else 0.3)]) for c in range(50)]
    assert drift([turn for turns in of_users for turn in turns], users=50).ratio == pytest.approx(3.0)


def test_halves_are_of_time_though_a_plan_goes_by_conversation() -> None:
    """Four long conversations side by side, all of them slow from the eleventh turn on."""
    turns = [(float(turn), 0.1 if turn < 10 else 0.3) for turn in range(20)]
    found = drift([turn for number in range(4) for turn in conversation(number, turns)])
    assert found.ratio == pytest.approx(3.0)
    assert not found.steady
