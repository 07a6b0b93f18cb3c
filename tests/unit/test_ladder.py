"""Which load a ladder measures next, and the climb of a trial over a played engine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.level_run import ClientUse, LevelRun, LevelWatch, RequestRecord
from autotune.loading import load
from autotune.measurement import Doubling, Given, clearly_violates, load_point, next_load
from autotune.measurement.ladder import MOST_LEVELS
from autotune.model_card import read_model
from autotune.results import Load, LoadKind, LoadPoint, Measured
from autotune.settings import built_in_profiles
from autotune.spec import Sla
from autotune.trial import failures
from autotune.trial.ladder import (
    AFTER_INVALID_SEED,
    SECOND_LOOK_SEED,
    SETTLE_LOOKS,
    SETTLE_PAUSE_S,
    LevelLost,
    Site,
    measure_levels,
)
from autotune.trial.request import Control, TrialRequest
from autotune.trial.virtual import run_virtual
from autotune.trial.window import idle
from autotune.workload import Level, LevelPlan, Workload, found_level, given_levels

ROOT = Path(__file__).parents[2]
TINY = ROOT / "autotune" / "demo" / "tiny-llama"
DEMO = load((ROOT / "workloads" / "demo.yaml").read_text(), Workload, source="demo")
SLA = Sla(p99_ttft_ms=200)
AUTO = Doubling(start=1.0, most=1024.0, resolution=0.1)
USERS = Doubling(start=1.0, most=1024.0, resolution=0.1, whole=True)


def point(load_value: float, *, good: bool, throughput: float | None = None, kind: LoadKind = "request_rate"):
    record = RequestRecord(0, 0.0, 0.0, (0.1,), 0.1, 10, 1, 1)
    measured = load_point(
        LevelRun((record,)), level=0, load=Load(kind=kind, value=load_value), devices=1, seed=0, sla=SLA
    )
    found = {"p99_ttft_ms": -0.5 if good else 0.5, "error_rate": -1.0}
    return measured.model_copy(update={"violations": found, "output_throughput": throughput or 100 * load_value})


def climbed(ladder: Given | Doubling, limit: float, throughput: Callable[[float], float] | None = None) -> list[float]:
    """The loads of a whole climb over an engine that keeps the SLA up to `limit`."""
    points: list[LoadPoint] = []
    while (value := next_load(points, ladder)) is not None:
        points.append(point(value, good=value <= limit, throughput=throughput and throughput(value)))
    return [found.load.value for found in points]


def test_given_levels_are_climbed_until_one_is_bad() -> None:
    assert climbed(Given((1.0, 2.0, 4.0, 8.0)), limit=3) == [1, 2, 4]
    assert climbed(Given((1.0, 2.0)), limit=3) == [1, 2]


def test_a_ladder_doubles_and_then_halves_the_gap_geometrically() -> None:
    """From 4 and 8: the middles are 5.657, then 6.727, then 6.169, and 6.727 / 6.169 is below 1.1."""
    assert climbed(AUTO, limit=6.5) == [1, 2, 4, 8, 5.657, 6.727, 6.169]


def test_a_first_level_that_is_bad_ends_the_ladder() -> None:
    assert climbed(AUTO, limit=0.5) == [1]


def test_a_load_that_brings_no_throughput_ends_the_ladder() -> None:
    """8 brings 2 % more than 4."""
    assert climbed(AUTO, limit=100, throughput=lambda value: {1: 100, 2: 200, 4: 300, 8: 306}[int(value)]) == [
        1,
        2,
        4,
        8,
    ]


def test_three_percent_more_is_still_a_gain() -> None:
    gains = {1: 100, 2: 200, 4: 206.1, 8: 206.1}
    assert climbed(AUTO, limit=100, throughput=lambda value: gains[int(value)]) == [1, 2, 4, 8]


def test_no_level_is_above_the_most() -> None:
    assert climbed(dataclasses.replace(AUTO, most=6.0), limit=100) == [1, 2, 4, 6]
    assert climbed(dataclasses.replace(USERS, most=6.5), limit=100) == [1, 2, 4, 6]


def test_users_are_whole_and_neighbours_end_the_search() -> None:
    assert climbed(dataclasses.replace(USERS, resolution=0.001), limit=6) == [1, 2, 4, 8, 6, 7]
    assert climbed(USERS, limit=1) == [1, 2]


def test_an_invalid_level_ends_every_ladder() -> None:
    invalid = point(1, good=True).model_copy(update={"invalid": "the client was busy"})
    assert next_load([invalid], AUTO) is None
    assert next_load([invalid], Given((1.0, 2.0))) is None


@settings(deadline=None)  # a stalled machine is no counterexample
@given(limit=st.floats(0.5, 2000), resolution=st.floats(0.001, 1), whole=st.booleans())
def test_a_ladder_ends_with_the_limit_between_levels_within_the_resolution(limit, resolution, whole) -> None:
    loads = climbed(Doubling(1.0, 1024.0, resolution, whole), limit)
    good, bad = [value for value in loads if value <= limit], [value for value in loads if value > limit]
    assert len(set(loads)) == len(loads) <= MOST_LEVELS
    if not good:
        assert loads == [1]
    elif not bad:
        assert max(good) == 1024
    else:
        assert min(bad) <= max(good) * (1 + resolution) * 1.000001 or (whole and min(bad) - max(good) == 1)


def test_a_ladder_ends_when_no_readable_load_lies_in_the_gap() -> None:
    """Between 1.500 and 1.501 there are no four digits, and 1.5 was measured."""
    loads = climbed(dataclasses.replace(AUTO, resolution=1e-6), limit=1.5004)
    assert len(set(loads)) == len(loads)
    assert {1.5, 1.501} <= set(loads)


def test_no_resolution_is_finer_than_levels_can_be_told_apart() -> None:
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.01"):
        auto_levels(resolution=0.009)
    assert auto_levels(resolution=0.01).resolution == 0.01


def test_loads_that_differ_a_little_have_different_requests_and_equal_loads_the_same() -> None:
    values = [0.0001, 0.0002, 0.0004, 0.001, 1.0, 1.0001, 65536.0]
    assert len({found_level(0, value).trace for value in values}) == len(values)
    assert found_level(3, 5.657).trace == found_level(7, 5.657).trace == 1_000_000 + 254_008_635_157_291


# The climb of a trial


class Counted:
    """A window in which nothing is seen."""

    def close(self) -> dict[str, float]:
        return {}


class Played:
    """An engine whose TTFT (s) is a function of the load, the seed and the request's index; it serves what comes."""

    def __init__(
        self, ttft_s: Callable[[float, int, int], float], client: Callable[[int], ClientUse] | None = None
    ) -> None:
        self._ttft_s, self._client = ttft_s, client or (lambda _seed: ClientUse())
        self.sent: list[tuple[float, int]] = []
        self.rules: list[tuple[Any, ...]] = []

    def send(self, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
        self.sent.append((plan.load.value, plan.seed))
        self.rules.append(watch.hopeless)
        records = []
        for index in range(len(plan.requests)):
            due_s = index / plan.load.value
            first_s = due_s + self._ttft_s(plan.load.value, plan.seed, index)
            records.append(RequestRecord(index, due_s, due_s, (first_s,), first_s, 10, 1, 1))
        return LevelRun(tuple(records), client=self._client(plan.seed), planned=len(plan.requests))

    @property
    def site(self) -> Site:
        return Site(send=self.send, gone=lambda: False, window=Counted)


def request(folder: Path, **changes: Any) -> TrialRequest:
    workload = Workload.model_validate(
        DEMO.model_dump() | {"arrival": {"kind": "poisson"}, "levels": (1, 2, 3, 7), "warmup_requests": 0}
    )
    base = TrialRequest(
        job="ladder",
        number=1,
        config=EngineConfig(),
        profile=built_in_profiles()["simulated"],
        resource="CPU",
        model=read_model(TINY),
        engine_version="",
        workload=workload,
        sla=SLA,
        levels=given_levels(workload),
        search_seed=1,
        confirm_seeds=(),
        folder=folder,
    )
    asked = dataclasses.replace(base, **changes)
    asked.artifacts.mkdir(parents=True)
    return asked


def auto(folder: Path, **levels: Any) -> TrialRequest:
    asked = request(folder)
    return dataclasses.replace(
        asked, workload=asked.workload.model_copy(update={"levels": auto_levels(**levels)}), levels=()
    )


def auto_levels(**levels: Any) -> Any:
    return Workload.model_validate(DEMO.model_dump() | {"levels": levels or "auto"}).levels


def steps(limit: float) -> Callable[[float, int, int], float]:
    """Everybody is served in time up to a load, nobody above it."""
    return lambda load, _seed, _index: 0.1 if load <= limit else 0.9


def levels_sent(played: Played) -> list[tuple[float, int]]:
    return played.sent[1:]  # after the warm-up


def test_levels_that_the_ladder_found_are_numbered_by_load(tmp_path: Path) -> None:
    played = Played(steps(6.5))
    points = measure_levels(auto(tmp_path), played.site, Control())
    assert [load for load, _ in levels_sent(played)] == [1, 2, 4, 8, 5.657, 6.727, 6.169]
    assert [(p.level, p.load.value) for p in points] == list(enumerate([1, 2, 4, 5.657, 6.169, 6.727, 8]))
    assert [p.feasible for p in points] == [True] * 5 + [False] * 2


def test_the_request_records_of_found_levels_carry_their_final_numbers(tmp_path: Path) -> None:
    """3 users are the third level by load and the fourth that was measured."""
    asked = auto(tmp_path, start=1, resolution=0.1)
    asked = dataclasses.replace(asked, workload=asked.workload.model_copy(update={"arrival": DEMO.arrival}))
    points = measure_levels(asked, Played(steps(3)).site, Control())
    assert [p.load.value for p in points] == [1, 2, 3, 4]
    names = sorted(path.name for path in asked.artifacts.glob("*.gz"))
    assert names == [f"requests-level-{number}-seed-1.jsonl.gz" for number in range(4)]


def test_a_level_is_the_same_wherever_the_climb_meets_it(tmp_path: Path) -> None:
    plans: list[LevelPlan] = []

    def site(limit: float) -> Site:
        played = Played(steps(limit))

        def send(plan: LevelPlan, watch: LevelWatch) -> LevelRun:
            plans.append(plan)
            return played.send(plan, watch)

        return Site(send=send, gone=lambda: False, window=Counted)

    measure_levels(auto(tmp_path / "a"), site(6.5), Control())
    measure_levels(auto(tmp_path / "b"), site(5.0), Control())
    first, second = (plan for plan in plans if plan.load.value == 5.657)
    assert first == second


def test_a_level_that_straddles_the_limit_is_measured_once_more(tmp_path: Path) -> None:
    """Four of 300 are late: the P99 is above the limit, its lower bound is not. In both runs together it is four."""
    late_once = lambda load, seed, index: 0.9 if load == 2 and seed == 1 and index < 4 else 0.1  # noqa: E731
    played = Played(late_once)
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1), (2, 1 + SECOND_LOOK_SEED), (3, 1), (7, 1)]
    assert all(p.feasible for p in points)
    assert points[1].completed == 600


def test_a_second_look_that_cannot_save_a_level_is_left_out(tmp_path: Path) -> None:
    """With confidence two of 600 may be late, and four were."""
    played = Played(lambda load, _seed, index: 0.9 if load == 2 and index < 4 else 0.1)
    points = measure_levels(request(tmp_path, sla=Sla(p99_ttft_ms=200, confidence=0.95)), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1)]
    assert [p.feasible for p in points] == [True, False]


def late_of(**counts: int) -> Callable[[float, int, int], float]:
    """So many late requests at load 3 in the `first` look and in the `second`, few at load 2, and all at load 7."""

    def ttft_s(load: float, seed: int, index: int) -> float:
        late = {2: 2, 3: counts["first" if seed == 1 else "second"], 7: 300}.get(int(load), 0)
        return 0.9 if index < late else 0.1

    return ttft_s


LOOK_AGAIN = (3, 1 + SECOND_LOOK_SEED)


def test_an_operating_point_that_straddles_the_limit_is_measured_once_more_when_the_climb_has_ended(
    tmp_path: Path,
) -> None:
    """Two of 300 are late, three may be: the P99 meets the limit, its upper bound does not. Six of 600 may be."""
    played = Played(late_of(first=2, second=4))
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1), (3, 1), (7, 1), LOOK_AGAIN]
    assert [(p.feasible, p.completed) for p in points] == [(True, 300), (True, 300), (True, 600), (False, 300)]


def test_an_operating_point_that_does_not_hold_is_lost_and_no_further_one_is_looked_at(tmp_path: Path) -> None:
    """Seven of 600 are late. Load 2, whose bounds straddle as well, is the operating point as it was measured."""
    played = Played(late_of(first=2, second=5))
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played)[4:] == [LOOK_AGAIN]
    assert [p.feasible for p in points] == [True, True, False, False]


def test_the_second_look_at_an_operating_point_ends_early_by_both_looks_together(tmp_path: Path) -> None:
    played = Played(late_of(first=2, second=4))
    measure_levels(request(tmp_path), played.site, Control())
    (rule,) = played.rules[-1]
    assert (rule.allowed, rule.limit_s) == (4, pytest.approx(0.2))


def test_an_operating_point_whose_bounds_meet_the_limit_is_not_looked_at_again(tmp_path: Path) -> None:
    played = Played(late_of(first=0, second=0))
    measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1), (3, 1), (7, 1)]


def test_an_operating_point_that_was_looked_at_twice_already_is_left_as_it_is(tmp_path: Path) -> None:
    """Four late of 300 and two of 300: six of 600 may be late, and the upper bound is above the limit."""
    played = Played(late_of(first=4, second=2))
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1), (3, 1), LOOK_AGAIN, (7, 1)]
    assert [p.feasible for p in points] == [True, True, True, False]


def test_a_second_look_in_which_the_client_was_the_bottleneck_changes_nothing(tmp_path: Path) -> None:
    busy = lambda seed: ClientUse(cpu_share=0.99 if seed > SECOND_LOOK_SEED else 0.1)  # noqa: E731
    played = Played(late_of(first=2, second=5), busy)
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played)[-1] == LOOK_AGAIN
    assert [(p.feasible, p.completed, p.invalid) for p in points][2] == (True, 300, "")


def test_with_a_confidence_no_operating_point_straddles_its_limit(tmp_path: Path) -> None:
    """One late of 300 may be, with 70 %; the 95 % bound is above the limit."""
    played = Played(lambda load, _seed, index: 0.9 if load == 7 or (load == 3 and index < 1) else 0.1)
    measure_levels(request(tmp_path, sla=Sla(p99_ttft_ms=200, confidence=0.7)), played.site, Control())
    assert levels_sent(played) == [(1, 1), (2, 1), (3, 1), (7, 1)]


def test_an_operating_point_that_the_ladder_found_is_looked_at_again_under_its_final_number(tmp_path: Path) -> None:
    played = Played(lambda load, _seed, index: 0.9 if load > 3 or index < 2 else 0.1)
    asked = auto(tmp_path, start=1, resolution=0.5)
    points = measure_levels(asked, played.site, Control())
    assert [load for load, _ in levels_sent(played)] == [1, 2, 4, 2.828, 2.828]
    assert [(p.level, p.load.value, p.completed) for p in points][2:] == [(2, 2.828, 600), (3, 4, 300)]
    names = sorted(path.name for path in asked.artifacts.glob("*-level-2-*.gz"))
    assert names == ["requests-level-2-seed-1.jsonl.gz", f"requests-level-2-seed-{1 + SECOND_LOOK_SEED}.jsonl.gz"]


def test_the_lowest_level_and_those_far_above_the_one_below_end_only_where_violations_are_clipped(
    tmp_path: Path,
) -> None:
    """Loads 1, 2, 3 and 7: only 2 and 3 are close to the level below them."""
    played = Played(steps(10))
    measure_levels(request(tmp_path), played.site, Control())
    limits_s = [rules[0].limit_s for rules in played.rules[1:]]
    assert limits_s == pytest.approx([0.8963, 0.2, 0.2, 0.8963], abs=1e-4)


def test_a_ladder_that_looks_for_its_limit_ends_all_but_the_lowest_level_at_once(tmp_path: Path) -> None:
    played = Played(steps(1))
    measure_levels(auto(tmp_path, start=1, resolution=1), played.site, Control())
    assert [rules[0].limit_s for rules in played.rules[1:]] == pytest.approx([0.8963, 0.2], abs=1e-4)


def test_confirmations_never_end_early(tmp_path: Path) -> None:
    played = Played(steps(0))
    asked = request(tmp_path, levels=(Level(1, 2.0, trace=1),), confirm_seeds=(5, 6))
    assert [(p.level, p.seed) for p in measure_levels(asked, played.site, Control())] == [(1, 5), (1, 6)]
    assert played.rules == [(), (), ()]


def test_a_level_in_which_the_client_was_the_bottleneck_is_measured_anew(tmp_path: Path) -> None:
    """Alone: nothing of the first run is in its figures."""
    busy = lambda seed: ClientUse(cpu_share=0.99 if seed == 1 else 0.1)  # noqa: E731
    played = Played(steps(10), busy)
    points = measure_levels(request(tmp_path), played.site, Control())
    assert levels_sent(played)[:2] == [(1, 1), (1, 1 + AFTER_INVALID_SEED)]
    assert (points[0].invalid, points[0].completed, points[0].seed) == ("", 300, 1 + AFTER_INVALID_SEED)
    assert len(points) == 4


def test_a_client_that_is_the_bottleneck_again_ends_the_climb(tmp_path: Path) -> None:
    played = Played(steps(10), lambda _seed: ClientUse(cpu_share=0.99))
    (point,) = measure_levels(request(tmp_path), played.site, Control())
    assert "99% of its core" in point.invalid
    evidence = failures.client_bound(point.invalid)
    assert (evidence.failure, evidence.cause) == (
        "client",
        "No level could be measured: the load generator used 99% of its core.",
    )
    assert evidence.advice.startswith("Give the load generator a core of its own")


def test_a_simulated_trial_ends_a_hopeless_level_early_with_the_same_verdict(tmp_path: Path) -> None:
    """Four sequences serve 50 requests/s; at 80 the queue grows until the level ends."""
    config = EngineConfig(arguments={"load_format": "dummy", "max_model_len": 64, "max_num_seqs": 4})
    levels = tuple(Level(number, value, trace=number) for number, value in enumerate((20.0, 40.0, 80.0)))
    asked = request(tmp_path, config=config, levels=levels, sla=Sla(p99_ttft_ms=300))
    outcome = run_virtual(asked).outcome
    whole = run_virtual(dataclasses.replace(asked, folder=tmp_path / "whole", levels=levels[2:], confirm_seeds=(1,)))
    assert isinstance(outcome, Measured)
    assert isinstance(whole.outcome, Measured)
    (complete,) = whole.outcome.points  # the same requests; a confirmation is never ended early
    low, middle, high = outcome.points
    assert (complete.aborted, complete.completed, complete.seed) == (False, 300, high.seed)
    assert (complete.feasible, clearly_violates(complete, asked.sla)) == (False, True)
    assert (high.feasible, clearly_violates(high, asked.sla)) == (False, True)
    assert high.duration_s < complete.duration_s
    assert (low.aborted, middle.aborted, high.aborted) == (False, False, True)
    assert outcome.operating_level == 1
    assert high.unfinished > 0
    assert high.unfinished + high.completed + high.failed == 300


def test_a_simulated_trial_finds_its_limit(tmp_path: Path) -> None:
    """The levels are by load, those below the limit keep the SLA, and the two at the limit are close."""
    asked = auto(tmp_path, start=20, most=1000, resolution=0.2)
    config = EngineConfig(arguments={"load_format": "dummy", "max_model_len": 64, "max_num_seqs": 16})
    outcome = run_virtual(dataclasses.replace(asked, config=config, folder=tmp_path / "virtual")).outcome
    assert isinstance(outcome, Measured)
    points = outcome.points
    assert [p.level for p in points] == list(range(len(points)))
    best = next(p.level for p in points if not p.feasible) - 1
    assert [p.feasible for p in points] == [True] * (best + 1) + [False] * (len(points) - best - 1)
    assert points[best + 1].load.value <= 1.2 * points[best].load.value * 1.000001
    assert outcome.operating_level == best


# After a level that was ended early


class Ending(Played):
    """Ends the levels above a load early, and has requests left for some looks after each of them."""

    def __init__(self, limit: float, *, looks: int) -> None:
        super().__init__(steps(limit))
        self._limit, self._looks, self._left = limit, looks, 0
        self.events: list[str] = []

    def send(self, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
        run = super().send(plan, watch)
        self.events.append(f"sent {plan.load.value:g}")
        if plan.load.value <= self._limit:
            return run
        self._left = self._looks
        return dataclasses.replace(run, records=run.records[:20], aborted=True)

    def settled(self) -> bool:
        self._left -= 1
        return self._left < 0

    def pause(self, seconds: float) -> None:
        self.events.append(f"paused {seconds:g}")

    @property
    def site(self) -> Site:
        return Site(send=self.send, gone=lambda: False, window=Counted, settled=self.settled, pause=self.pause)


def test_after_a_level_that_was_ended_early_the_next_one_waits_for_an_idle_engine(tmp_path: Path) -> None:
    """1 and 2 are good, 4 is ended early: only before 2.828 there is a wait, of three looks."""
    ending = Ending(2.0, looks=2)
    measure_levels(auto(tmp_path, resolution=0.5), ending.site, Control())
    pause = f"paused {SETTLE_PAUSE_S:g}"
    assert ending.events[1:] == ["sent 1", "sent 2", "sent 4", pause, pause, "sent 2.828"]


def test_the_wait_for_an_idle_engine_has_an_end(tmp_path: Path) -> None:
    ending = Ending(2.0, looks=10_000)
    measure_levels(auto(tmp_path, resolution=0.5), ending.site, Control())
    assert ending.events[-1] == "sent 2.828"
    assert len(ending.events) == 5 + SETTLE_LOOKS


def test_a_cancel_is_heard_while_the_ladder_waits_for_an_idle_engine(tmp_path: Path) -> None:
    ending = Ending(2.0, looks=10_000)
    control = Control()

    def pause(seconds: float) -> None:
        ending.pause(seconds)
        control.cancel()

    site = dataclasses.replace(ending.site, pause=pause)
    with pytest.raises(LevelLost):
        measure_levels(auto(tmp_path, resolution=0.5), site, control)
    assert ending.events[1:] == ["sent 1", "sent 2", "sent 4", f"paused {SETTLE_PAUSE_S:g}"]


def test_the_figures_of_a_pooled_level_are_those_of_both_windows(tmp_path: Path) -> None:
    """Level 2 is measured twice, 700 tokens each time."""

    class Tokens:
        def close(self) -> dict[str, float]:
            return {"generation_tokens": 700.0}

    played = Played(lambda load, seed, index: 0.9 if load == 2 and seed == 1 and index < 4 else 0.1)
    points = measure_levels(request(tmp_path), Site(played.send, lambda: False, Tokens), Control())
    assert [p.engine["generation_tokens"] for p in points] == [700, 1400, 700, 700]


def test_gauges_tell_whether_an_engine_is_idle() -> None:
    assert idle({"requests_running": 0.0, "requests_waiting": 0.0}) is True
    assert idle({"requests_running": 0.0, "requests_waiting": 1.0}) is False
    assert idle({"requests_running": 1.0, "requests_waiting": 0.0}) is False
    assert idle({}) is None
