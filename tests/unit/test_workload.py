"""The traffic plan: what files may say, and that a plan is the same wherever and whenever it is made."""

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autotune.results import Load
from autotune.workload import (
    LevelPlan,
    Source,
    Vocabulary,
    Workload,
    found_level,
    given_levels,
    open_source,
    plan_level,
    plan_warmup,
)

VOCABULARY = Vocabulary(size=384, special_ids=frozenset({0, 1, 2}))


def workload(**changes: Any) -> Workload:
    document = {
        "version": 1,
        "name": "w",
        "dataset": {
            "kind": "synthetic",
            "input_tokens": {"kind": "uniform", "min": 24, "max": 40},
            "output_tokens": {"kind": "fixed", "tokens": 16},
        },
        "arrival": {"kind": "poisson"},
        "levels": [2, 4],
        "requests_per_level": 20,
    }
    return Workload.model_validate(document | changes)


def dataset(tokens: dict[str, Any], prefix: int = 0) -> dict[str, Any]:
    return {
        "kind": "synthetic",
        "input_tokens": tokens,
        "output_tokens": {"kind": "fixed", "tokens": 8},
        "shared_prefix_tokens": prefix,
    }


def source(job: Workload) -> Source:
    return open_source(job.dataset, VOCABULARY)


def plan(job: Workload, *, level: int = 0, devices: int = 1, seed: int = 0) -> LevelPlan:
    return plan_level(job, given_levels(job)[level], devices=devices, seed=seed, source=source(job))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [4, 2]}, "levels must ascend, but 2 follows 4"),
        ({"levels": [4, 4]}, "levels must ascend, but 4 follows 4"),
        ({"levels": []}, "at least 1 item"),
        ({"levels": [0, 1]}, "greater than 0"),
        ({"version": 2}, "Input should be 1"),
        ({"levels": [1.5], "arrival": {"kind": "closed_loop"}}, "must be whole numbers, not 1.5"),
        ({"arrival": {"kind": "closed_loop"}, "min_level_duration_s": 5}, "set requests_per_level"),
        ({"arrival": {"kind": "gamma"}}, "burstiness"),
        ({"dataset": dataset({"kind": "uniform", "min": 9, "max": 8})}, "min 9 is above max 8"),
        ({"dataset": dataset({"kind": "lognormal", "median": 9, "sigma": 1, "max": 8})}, "median 9 is not between"),
        ({"request_per_level": 3}, "Extra inputs are not permitted"),
        ({"arrival": {"kind": "replay"}}, "replay needs a dataset of kind trace, not synthetic"),
        ({"dataset": dataset({"kind": "fixed", "tokens": 9}) | {"shared_prefixes": 2}}, "needs shared_prefix_tokens"),
        ({"dataset": {"kind": "synthetik"}}, "does not match any of the expected tags"),
    ],
)
def test_a_wrong_workload_is_refused_with_what_is_wrong(changes, message):
    with pytest.raises(ValidationError, match=message):
        workload(**changes)


def test_the_longest_request_counts_prefix_input_and_output():
    assert (
        source(workload(dataset=dataset({"kind": "uniform", "min": 1, "max": 40}, prefix=100))).longest_request_tokens
        == 148
    )


def test_the_same_arguments_give_the_same_plan():
    assert plan(workload(), level=1, devices=2, seed=7) == plan(workload(), level=1, devices=2, seed=7)


def test_a_plan_is_the_same_on_every_machine():
    """The digest was written down once; a change of it makes stored measurements incomparable."""
    job = workload(dataset=dataset({"kind": "lognormal", "median": 20, "sigma": 1, "max": 80}, prefix=4))
    requests = plan(job, level=1, devices=2, seed=7).requests
    text = ";".join(f"{r.offset_s:.6f},{r.max_tokens},{r.prompt}" for r in requests)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "631bc03ee40cd9cf"


def test_load_is_per_device_and_the_arrival_rate_is_multiplied():
    one, four = plan(workload(levels=[2])), plan(workload(levels=[2]), devices=4)
    assert one.load == four.load == Load(kind="request_rate", value=2)
    assert one.requests[-1].offset_s == pytest.approx(20 / 2)
    assert four.requests[-1].offset_s == pytest.approx(20 / 8)
    assert four.max_concurrency is None


def test_prompts_do_not_depend_on_the_number_of_devices():
    one, four = plan(workload()), plan(workload(), devices=4)
    assert [r.prompt for r in one.requests] == [r.prompt for r in four.requests]


def test_a_closed_loop_multiplies_the_concurrency_and_sends_at_once():
    closed = plan(workload(levels=[3], arrival={"kind": "closed_loop"}), devices=2)
    assert closed.load == Load(kind="max_concurrency", value=3)
    assert closed.max_concurrency == 6
    assert {r.offset_s for r in closed.requests} == {0.0}
    assert len(closed.requests) == 20


def test_a_closed_loop_sends_at_least_two_requests_per_slot():
    assert len(plan(workload(levels=[16], arrival={"kind": "closed_loop"})).requests) == 32


def test_an_open_loop_adds_requests_until_the_level_lasts_long_enough():
    job = workload(levels=[4], min_level_duration_s=30)
    assert len(plan(job).requests) == 120
    assert plan(job).requests[-1].offset_s == pytest.approx(30)


def test_an_open_loop_that_looks_for_its_limit_has_levels_that_outweigh_their_drain():
    auto = workload(levels="auto")
    assert auto.min_level_duration_s == 30
    assert plan_level(auto, found_level(0, 64), devices=1, seed=0, source=source(auto)).requests[-1].offset_s >= 30
    assert workload(levels={"start": 2}, arrival={"kind": "gamma", "burstiness": 0.5}).min_level_duration_s == 30
    assert workload(levels="auto", min_level_duration_s=0).min_level_duration_s == 0
    assert workload(levels="auto", min_level_duration_s=5).min_level_duration_s == 5


def test_given_levels_and_closed_loops_have_no_minimum_duration_of_their_own():
    assert workload().min_level_duration_s == 0
    assert workload(levels="auto", arrival={"kind": "closed_loop"}).min_level_duration_s == 0


def test_a_workload_that_was_stored_keeps_the_duration_that_it_was_measured_with():
    document = workload(levels="auto", min_level_duration_s=0).model_dump(mode="json")
    assert Workload.model_validate(document).min_level_duration_s == 0


def test_a_longer_level_begins_with_the_same_requests():
    short, long = plan(workload()), plan(workload(min_level_duration_s=30))
    assert [(r.prompt, r.max_tokens) for r in long.requests[:20]] == [(r.prompt, r.max_tokens) for r in short.requests]


def test_constant_arrival_has_equal_gaps():
    offsets = [r.offset_s for r in plan(workload(arrival={"kind": "constant"}, requests_per_level=4)).requests]
    assert offsets == pytest.approx([0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize(("burstiness", "expected"), [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5)])
def test_gamma_gaps_vary_by_one_over_the_root_of_burstiness(burstiness, expected):
    job = workload(arrival={"kind": "gamma", "burstiness": burstiness}, requests_per_level=4000)
    gaps = np.diff([r.offset_s for r in plan(job).requests])
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(expected, rel=0.1)


def test_lognormal_lengths_have_the_median_and_stay_inside_the_bounds():
    tokens = {"kind": "lognormal", "median": 50, "sigma": 1.0, "min": 10, "max": 200}
    lengths = [len(r.prompt) for r in plan(workload(dataset=dataset(tokens), requests_per_level=2000)).requests]
    assert min(lengths) == 10
    assert max(lengths) == 200
    assert np.median(lengths) == pytest.approx(50, abs=4)


def test_uniform_lengths_reach_both_bounds():
    lengths = {len(r.prompt) for r in plan(workload(requests_per_level=500)).requests}
    assert (min(lengths), max(lengths)) == (24, 40)


def test_special_tokens_are_never_sent():
    sent = {token for r in plan(workload(requests_per_level=400)).requests for token in r.prompt}
    assert sent == set(range(3, 384))


def test_a_vocabulary_of_special_tokens_only_is_refused():
    with pytest.raises(ValueError, match="2 tokens has no token that is not special"):
        open_source(workload().dataset, Vocabulary(2, frozenset({0, 1})))


def test_the_shared_prefix_is_the_same_for_all_requests_levels_and_the_warm_up():
    job = workload(dataset=dataset({"kind": "fixed", "tokens": 10}, prefix=32), warmup_requests=3)
    warmup = plan_warmup(job, devices=1, seed=0, source=source(job))
    requests = [*plan(job, level=0).requests, *plan(job, level=1).requests, *warmup.requests]
    assert len({r.prompt[:32] for r in requests}) == 1
    assert {len(r.prompt) for r in requests} == {42}


@settings(deadline=None)  # a stalled machine is no counterexample
@given(seeds=st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=2, unique=True))
def test_no_two_prompts_of_any_level_seed_or_warm_up_begin_alike(seeds):
    """Eight tokens in common would be one chance in 381^8."""
    job = workload(warmup_requests=5)
    plans = [plan(job, level=level, seed=seed) for level in (0, 1) for seed in seeds]
    plans += [plan_warmup(job, devices=1, seed=seed, source=source(job)) for seed in seeds]
    beginnings = [r.prompt[:8] for p in plans for r in p.requests]
    assert len(set(beginnings)) == len(beginnings) == 90


@settings(deadline=None)  # a stalled machine is no counterexample
@given(rate=st.floats(0.1, 100), devices=st.integers(1, 16), seed=st.integers(0, 2**31 - 1))
def test_offsets_never_go_back_and_end_at_count_over_rate(rate, devices, seed):
    offsets = [r.offset_s for r in plan(workload(levels=[rate]), devices=devices, seed=seed).requests]
    assert offsets == sorted(offsets)
    assert offsets[0] >= 0
    assert offsets[-1] == pytest.approx(20 / (rate * devices))


def test_warm_up_is_a_closed_loop_with_its_own_number_of_requests():
    job = workload(warmup_requests=5)
    warmup = plan_warmup(job, devices=2, seed=0, source=source(job))
    assert (len(warmup.requests), warmup.max_concurrency) == (5, 16)


def test_each_request_has_one_of_the_shared_prefixes():
    shared = dataset({"kind": "fixed", "tokens": 10}, prefix=32) | {"shared_prefixes": 5}
    job = workload(dataset=shared, requests_per_level=200)
    assert {r.prompt[:32] for r in plan(job).requests} == set(source(job).prefixes)
    assert len(source(job).prefixes) == 5
    assert {len(r.prompt) for r in plan(job).requests} == {42}


def test_prefixes_are_chosen_apart_from_lengths_and_tokens():
    """A workload with more documents has the same questions."""
    one = dataset({"kind": "uniform", "min": 5, "max": 50}, prefix=32)
    few, many = plan(workload(dataset=one)), plan(workload(dataset=one | {"shared_prefixes": 9}))
    assert [r.prompt[32:] for r in few.requests] == [r.prompt[32:] for r in many.requests]


def test_the_warm_up_reads_every_shared_prefix_in_turn():
    shared = dataset({"kind": "fixed", "tokens": 10}, prefix=32) | {"shared_prefixes": 3}
    job = workload(dataset=shared, warmup_requests=5)
    warmup = plan_warmup(job, devices=1, seed=0, source=source(job))
    number = {prefix: position for position, prefix in enumerate(source(job).prefixes)}
    assert [number[r.prompt[:32]] for r in warmup.requests] == [0, 1, 2, 0, 1]


def test_an_open_loop_may_limit_the_requests_in_flight_per_device():
    job = workload(arrival={"kind": "poisson", "max_concurrency": 3})
    both = plan(job, devices=2)
    assert (both.max_concurrency, both.is_open_loop) == (6, True)
    assert [r.offset_s for r in both.requests] == [r.offset_s for r in plan(workload(), devices=2).requests]
